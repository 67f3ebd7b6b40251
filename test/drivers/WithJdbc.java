// JDBC: see run.sh.

import java.sql.*;
import java.util.*;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

public class WithJdbc {
    static final String RETURNING = " RETURNING pg_backend_pid(), pg_current_xact_id()::text";
    static final String WORK = "UPDATE t SET v = v + 1000 WHERE id = ?" + RETURNING;
    static final String AGAIN = "UPDATE t SET v = v + 10 WHERE id = ?" + RETURNING;

    static int row = 0;
    static final Set<String> toldInFull = new HashSet<>();

    interface Call {
        void run() throws Exception;
    }

    static void seen(String what) {
        System.out.println(" ".repeat(8) + what);
    }

    static void check(boolean ok, String what) {
        System.out.printf("%-8s%s%n", ok ? "ok" : "FAILED", what);
    }

    static String sql(String statement) throws Exception {
        Process psql = new ProcessBuilder("psql", "-X", "-q", "-At", "-U", "waiter", "-d", "postgres", "-c", statement)
            .redirectError(ProcessBuilder.Redirect.INHERIT).start();
        String output = new String(psql.getInputStream().readAllBytes()).trim();
        if (psql.waitFor() != 0)
            throw new Exception("failed: " + statement);
        return output;
    }

    static Connection connect(String options) throws SQLException {
        Connection c = DriverManager.getConnection(
            "jdbc:postgresql://127.0.0.1:" + System.getenv("DRIVER_PORT") + "/postgres" + options,
            "app", System.getenv("PGPASSWORD"));
        c.setAutoCommit(false);
        return c;
    }

    // The pid of the backend, and the transaction.
    static List<String> query(Connection c, String statement) throws SQLException {
        try (PreparedStatement s = c.prepareStatement(statement)) {
            s.setInt(1, row);
            ResultSet r = s.executeQuery();
            r.next();
            return List.of(r.getString(1), r.getString(2));
        }
    }

    static void letWait() throws Exception {
        sql("UPDATE t SET v = v + 1 WHERE id = " + row);
    }

    // A transaction that is rolled back, as another session waits for its row.
    static List<String> begin(Connection c) throws Exception {
        row++;
        List<String> before = query(c, WORK);
        letWait();
        return before;
    }

    static SQLException told(String what, String expected, Call call) throws Exception {
        SQLException error = null;
        try {
            call.run();
        } catch (SQLException e) {
            error = e;
        }
        ServerErrorMessage server = error instanceof PSQLException p ? p.getServerErrorMessage() : null;
        if (server == null) {
            check(false, what + ": " + (error == null ? "no error" : error.toString()));
            return error;
        }
        check(expected.equals(error.getSQLState()) && server.getDetail() != null && server.getHint() != null
                && server.getDetail().startsWith("lockguard: the transaction was rolled back: ")
                && server.getHint().contains("again"),
            what + ": " + error.getClass().getName() + ", " + error.getSQLState() + ", with DETAIL and HINT");
        if (!expected.equals(error.getSQLState()) || toldInFull.add(expected)) {
            seen("message: " + server.getMessage());
            seen("detail:  " + server.getDetail());
            seen("hint:    " + server.getHint());
        }
        return error;
    }

    static void goesOn(String what, Connection c, List<String> before) throws Exception {
        List<String> after = query(c, AGAIN);
        check(before.get(0).equals(after.get(0)) && !before.get(1).equals(after.get(1)),
            what + ": same backend, new transaction");
        c.commit();
        check(sql("SELECT v FROM t WHERE id = " + row).equals("11"),
            "which commits; nothing of the first transaction is there");
    }

    static void commits(Connection c) throws Exception {
        List<String> before = begin(c);
        SQLException error = told("commit()", "40000", c::commit);
        check(error != null && error.getMessage().contains("Detail: lockguard: "), "its getMessage() has the DETAIL, too");
        check(!c.isClosed() && c.isValid(5), "the connection is open and valid");
        goesOn("the next statement", c, before);

        before = begin(c);
        told("commit()", "40000", c::commit);
        c.rollback();
        goesOn("rollback() after that does no harm", c, before);

        before = begin(c);
        told("setAutoCommit(true), which commits", "40000", () -> c.setAutoCommit(true));
        seen("getAutoCommit() is " + c.getAutoCommit() + " then");
        c.setAutoCommit(false);
        goesOn("the next statement", c, before);
    }

    static void statementFirst(Connection c, String options) throws Exception {
        List<String> before = begin(c);
        told("a statement" + options, "25P02", () -> query(c, AGAIN));
        told("and another" + options, "25P02", () -> query(c, AGAIN));
        c.rollback();
        goesOn("after rollback()", c, before);

        before = begin(c);
        told("a statement" + options, "25P02", () -> query(c, AGAIN));
        told("commit() after it" + options, "40000", c::commit);
        goesOn("the next statement", c, before);

        before = begin(c);
        check(c.isValid(5), "isValid() is true before the client is told");
        c.rollback();
        goesOn("rollback() at once", c, before);
    }

    static void portions(Connection c) throws Exception {
        row++;
        List<String> before = query(c, WORK);
        try (Statement s = c.createStatement()) {
            s.setFetchSize(10);
            ResultSet r = s.executeQuery("SELECT generate_series(1, 1000)");
            r.next();
            letWait();
            told("the next rows with setFetchSize()", "34000", () -> {
                while (r.next())
                    ;
            });
        }
        c.rollback();
        goesOn("after rollback()", c, before);

        row++;
        before = query(c, WORK);
        Savepoint savepoint = c.setSavepoint();
        letWait();
        told("rollback() to a savepoint", "3B001", () -> c.rollback(savepoint));
        c.rollback();
        goesOn("after rollback()", c, before);
    }

    public static void main(String[] args) throws Exception {
        Connection c = connect("");
        DatabaseMetaData about = c.getMetaData();
        seen(about.getDriverName() + " " + about.getDriverVersion() + ", Java " + System.getProperty("java.version"));
        c.rollback();
        commits(c);
        statementFirst(c, "");
        portions(c);
        c.close();
        c = connect("?autosave=always");
        statementFirst(c, ", autosave=always");
        c.close();
    }
}
