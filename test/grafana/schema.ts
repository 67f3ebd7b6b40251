// dashboard.ts, which test/grafana/run.sh writes, assigns grafana/lockguard.json to the type "Checked".

import { Dashboard, Panel, RowPanel, GraphFieldConfig, FieldConfig } from '@grafana/schema';
import { Options as Stat } from './node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import { Options as BarGauge } from './node_modules/@grafana/schema/dist/types/raw/composable/bargauge/panelcfg/x/types.gen';
import { Options as TimeSeries } from './node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';
import { Dataquery } from '@grafana/grafana-foundation-sdk/prometheus';

// An enumeration's member is its value in JSON.
type Plain<T> = T extends string ? `${T}`
  : T extends number | boolean | null | undefined ? T
  : T extends Array<infer E> ? Array<Plain<E>>
  : T extends object ? { [K in keyof T]: Plain<T[K]> }
  : T;

type Query = Omit<Dataquery, '_implementsDataqueryVariant'>;

interface Typed<Type extends string, Options, Custom> extends Omit<Panel, 'type' | 'targets' | 'options' | 'fieldConfig'> {
  type: Type;
  targets: Query[];
  options: Options;
  fieldConfig: { defaults: Omit<FieldConfig, 'custom'> & { custom?: Custom }; overrides: [] };
}

type AnyPanel = RowPanel
  | Typed<'stat', Stat, never>
  | Typed<'bargauge', BarGauge, never>
  | Typed<'timeseries', TimeSeries, GraphFieldConfig>;

export type Checked = Plain<Omit<Dashboard, 'panels'>> & { panels: Array<Plain<AnyPanel>> };
