//! One throw-away Postgres for the whole test process, and a database of its own for every test.

use std::{
    fs::Permissions,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
};

use souk::postgres::{Server, Settings};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

/// A migrated database that nobody else uses.
pub(crate) struct TestDb {
    pub(crate) connect: PgConnectOptions,
}

impl TestDb {
    pub(crate) async fn new() -> Self {
        Self::like("souk_template").await
    }

    /// A database with nothing in it, for whoever migrates by itself.
    pub(crate) async fn empty() -> Self {
        Self::like("template0").await
    }

    async fn like(template: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let cluster = tokio::task::spawn_blocking(cluster).await.expect("a cluster");
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut conn = cluster.connect.connect().await.expect("the cluster serves");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create database {name} template {template}")))
            .execute(&mut conn)
            .await
            .expect("a database");
        conn.close().await.ok();
        Self { connect: cluster.connect.clone().database(&name) }
    }

    /// A connection past the engine.
    pub(crate) async fn conn(&self) -> PgConnection {
        self.connect.connect().await.expect("the cluster serves")
    }
}

struct Cluster {
    connect: PgConnectOptions,
    /// Its standard input closes with this process, however it ends; then it ends the server.
    _watcher: Child,
}

/// The server lives on a thread with a runtime of its own: every test has another runtime, and ends before the server.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let open = Permissions::from_mode(0o755);
        let dir =
            tempfile::Builder::new().prefix("souk-it-").permissions(open).tempdir_in("/tmp").expect("/tmp").keep();
        let watcher = watcher(&dir);
        let (tell, hear) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let settings = Settings { data_dir: dir.join("souk"), durable: false, bin_dir: None };
                let server = Server::start(settings).await.expect("Postgres starts");
                make_template(&server.connect_options()).await;
                tell.send(server.connect_options()).expect("somebody waits");
                std::future::pending::<()>().await;
            });
        });
        Cluster { connect: hear.recv().expect("a server"), _watcher: watcher }
    })
}

async fn make_template(connect: &PgConnectOptions) {
    let mut conn = connect.connect().await.expect("the server serves");
    sqlx::raw_sql("create database souk_template").execute(&mut conn).await.expect("a template");
    let mut template = connect.clone().database("souk_template").connect().await.expect("the template");
    sqlx::migrate!().run(&mut template).await.expect("the migrations go through");
    template.close().await.expect("a template must be alone");
}

/// Ends the server and removes its files when our end of its pipe closes, even by `kill -9`.
fn watcher(dir: &Path) -> Child {
    let script = r#"
        cat > /dev/null
        pid=$(head -n 1 "$0/souk/data/postmaster.pid" 2> /dev/null)
        [ -n "$pid" ] && kill -QUIT "$pid" 2> /dev/null
        while [ -n "$pid" ] && kill -0 "$pid" 2> /dev/null; do sleep 0.05; done
        rm -rf "$0"
    "#;
    Command::new("sh")
        .args(["-c", script])
        .arg(dir)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh runs")
}
