EXTENSION = lockguard
MODULE_big = lockguard
PGFILEDESC = "lockguard - removes the session that blocks everybody else"
DATA = sql/lockguard--1.0.sql
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

# The running server needs shared_preload_libraries = 'lockguard'; test/check.sh starts one.
REGRESS = basic settings privileges hostile
ISOLATION := $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --load-extension=lockguard
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl test/incidents/*.pl

# LOCKGUARD_DEBUG=1 compiles in the wait points that some TAP tests stop at ("make clean" first).
ifdef LOCKGUARD_DEBUG
PG_CPPFLAGS += -DLOCKGUARD_DEBUG
endif

# Calls inside the library go straight there, not through a table that is cold when the worker wakes.
ifeq ($(shell uname -s),Linux)
SHLIB_LINK += -Wl,-Bsymbolic
endif

# An archive can be made without PostgreSQL.
ifneq ($(MAKECMDGOALS),dist)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# LOCKGUARD_UNTESTED=1 tries another version, for which it may build but not work.
ifdef LOCKGUARD_UNTESTED
override CPPFLAGS += -DLOCKGUARD_UNTESTED
else ifeq ($(filter $(MAJORVERSION),15 16 17 18 19),)
$(error lockguard is for PostgreSQL 15 to 19; $(PG_CONFIG) belongs to $(VERSION))
endif

# PGXS resets PROVE_FLAGS, and follows headers only where PostgreSQL was built with --enable-depend.
PROVE_FLAGS += -I test/lib
$(OBJS): $(wildcard src/*.h)
endif

# The files of src/ from the bottom up: each includes only what stands above it in this list.  Fails if
# some include each other in a circle.
include-graph:
	@awk -F '"' '/^#include "/ && (getline line <("src/" $$2)) >= 0 { below = $$2; above = FILENAME; \
		sub(/\.h$$/, "", below); sub(/.*\//, "", above); sub(/\.[ch]$$/, "", above); \
		if (above != below) print below, above }' src/*.c src/*.h | tsort

# The archive for PGXN, of what is committed; .gitattributes says what is left out.
DIST = $(EXTENSION)-$(shell sed -nE 's/^\t"version": "(.*)",$$/\1/p' META.json)
dist:
	@[ -e .git ] || { echo "make dist: this is no git checkout" >&2; exit 1; }
	@[ -z "$$(git status --porcelain)" ] || echo "make dist: what is not committed is left out" >&2
	git archive --format=zip --prefix=$(DIST)/ -o $(DIST).zip HEAD

.PHONY: include-graph dist
