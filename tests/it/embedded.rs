//! The embedded Postgres: it comes up on a bare machine, outlives whoever is killed, and belongs to one engine.
//!
//! These tests need PostgreSQL installed. Run by root they also show that the server is not root.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, Uid},
};
use souk::postgres::{PostgresError, Server, Settings, usable_by_server};
use sqlx::{Connection, PgConnection, PgPool};
use tempfile::TempDir;

use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn a_first_start_makes_a_durable_private_server_which_keeps_its_rows() {
    let place = Place::new();
    let server = Server::start(Settings { durable: true, ..place.settings() }).await.unwrap();
    assert!(!server.adopted());

    let mut connection = connect(&server).await;
    for (name, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("lc_ctype", "C.UTF-8"),
        ("lock_timeout", "5s"),
        ("max_wal_size", "8GB"),
    ] {
        let setting: String =
            sqlx::query_scalar("select current_setting($1)").bind(name).fetch_one(&mut connection).await.unwrap();
        assert_eq!(setting, value, "{name}");
    }
    assert_eq!(place.tcp_sockets(), 0);
    for name in ["data", "s", "log"] {
        let mode = fs::metadata(place.root.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{name}");
    }
    if Uid::effective().is_root() {
        let status = fs::read_to_string(format!("/proc/{}/status", place.postmaster().unwrap())).unwrap();
        let ids = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().split_whitespace();
        assert!(ids("Uid:").chain(ids("Gid:")).all(|id| id != "0"), "{status}");
        assert_eq!(ids("Groups:").count(), 0, "{status}");
    }

    put_lamps(&server).await;
    server.stop().await.unwrap();
    assert_eq!(place.postmaster(), None);

    let again = place.start().await;
    assert_eq!(lamps(&again).await, 7);
    again.stop().await.unwrap();
    let log = fs::read_dir(place.root.join("log")).unwrap().count();
    assert_eq!(log, 1, "the server's log is where it is said to be");
}

#[tokio::test]
async fn a_second_engine_shares_the_server_and_may_not_stop_it() {
    let place = Place::new();
    // Both find an empty directory at the same moment.
    let (one, other) = tokio::join!(place.start(), place.start());
    let (first, second) = if other.adopted() { (one, other) } else { (other, one) };
    assert!(!first.adopted() && second.adopted());
    put_lamps(&first).await;

    second.stop().await.unwrap();
    assert_eq!(lamps(&first).await, 7);

    // Nor is a server without fsync taken for one with it.
    let strict = Server::start(Settings { durable: true, ..place.settings() }).await.unwrap_err();
    assert!(matches!(strict, PostgresError::Foreign { durable: false, .. }), "{strict}");

    first.stop().await.unwrap();
    assert_eq!(place.postmaster(), None);
}

#[tokio::test]
async fn a_server_killed_whole_starts_again_by_itself_with_its_rows() {
    let place = Place::new();
    let killed = place.start().await;
    put_lamps(&killed).await;
    let pid = place.postmaster().unwrap();
    for process in processes_below(pid).into_iter().chain([pid]) {
        kill(process, Signal::SIGKILL).ok(); // one may have ended with another
    }
    drop(killed);
    assert_eq!(place.postmaster(), Some(pid), "the killed server leaves its pid file");

    let again = place.start().await;
    assert!(!again.adopted());
    assert_eq!(lamps(&again).await, 7);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_watched_server_comes_back_and_the_pool_never_notices_for_long() {
    let place = Place::new();
    let mut server = place.start().await;
    put_lamps(&server).await;
    let pool = PgPool::connect_with(server.connect_options()).await.unwrap();
    let story = async {
        for _ in 0..2 {
            let killed = place.postmaster().unwrap();
            kill(killed, Signal::SIGKILL).unwrap();
            eventually("the same pool serves again", async || {
                let stock: Result<i32, _> = sqlx::query_scalar("select stock from lamp").fetch_one(&pool).await;
                stock.is_ok_and(|stock| stock == 7) && place.postmaster() != Some(killed)
            })
            .await;
        }
    };
    tokio::select! {
        () = server.watch() => unreachable!("a watch does not end"),
        () = story => {}
    }
    server.stop().await.unwrap();
    assert_eq!(place.postmaster(), None);
}

#[tokio::test]
async fn an_engine_that_is_killed_leaves_a_server_which_the_next_one_owns() {
    let place = Place::new();
    let engine = OtherEngine::start(&place);
    let mut companion = place.start().await;
    assert!(companion.adopted());
    put_lamps(&companion).await;

    engine.kill_with_its_process_group();
    assert_eq!(lamps(&companion).await, 7, "the server is not of the engine's process group");

    // The companion's watch takes over the lock, so a third engine may not stop the server …
    tokio::time::timeout(Duration::from_secs(2), companion.watch()).await.unwrap_err();
    let third = place.start().await;
    assert!(third.adopted());
    third.stop().await.unwrap();
    assert_eq!(lamps(&companion).await, 7);

    // … but the companion may.
    companion.stop().await.unwrap();
    assert_eq!(place.postmaster(), None);
}

#[tokio::test]
async fn an_initdb_whose_engine_was_killed_is_waited_for_and_done_again() {
    let place = Place::new();
    let half = place.root.join("data.init");
    let mut engine = OtherEngine::spawn(&place);
    eventually("initdb writes", async || half.join("base").exists()).await;
    engine.kill_alone();
    assert!(!place.root.join("data").exists());

    let (one, other) = tokio::join!(place.start(), place.start());
    assert!(!half.exists());
    put_lamps(&one).await;
    assert_eq!(lamps(&other).await, 7);
    let (owner, guest) = if one.adopted() { (other, one) } else { (one, other) };
    guest.stop().await.unwrap();
    owner.stop().await.unwrap();
}

#[tokio::test]
async fn a_directory_whose_name_no_socket_can_have_gets_a_short_private_one() {
    for name in ["a-very-long-name-".repeat(6), "lamps, chairs".to_owned()] {
        let place = Place::below(&name);
        let server = place.start().await;
        put_lamps(&server).await;
        let pid_file = fs::read_to_string(place.root.join("data/postmaster.pid")).unwrap();
        let socket_dir = PathBuf::from(pid_file.lines().nth(4).unwrap());
        assert_eq!(socket_dir.parent(), Some(Path::new("/tmp")));
        assert_eq!(fs::metadata(&socket_dir).unwrap().permissions().mode() & 0o777, 0o700);

        // A directory of that name which others may enter is not trusted.
        fs::set_permissions(&socket_dir, fs::Permissions::from_mode(0o755)).unwrap();
        let distrust = Server::start(place.settings()).await.unwrap_err();
        assert!(matches!(distrust, PostgresError::NotPrivate { .. }), "{distrust}");

        server.stop().await.unwrap();
        fs::remove_dir(socket_dir).unwrap();
    }
}

#[tokio::test]
async fn a_parent_that_the_server_may_not_pass_is_named() {
    if !Uid::effective().is_root() {
        return; // only root gives the server to another user
    }
    let place = Place::below("home/shop/data");
    let (shop, home) = (place.root.parent().unwrap(), place.root.parent().unwrap().parent().unwrap());
    fs::create_dir_all(shop).unwrap();
    for dir in [shop, home] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    }

    let error = Server::start(place.settings()).await.unwrap_err();
    assert!(matches!(&error, PostgresError::Unreachable { parent, .. } if parent == home), "{error}");
    assert!(error.to_string().contains(&format!("chmod o+x {}", home.display())), "{error}");
    assert!(!place.root.exists(), "a refusal leaves nothing behind");

    for dir in [shop, home] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
    }
    usable_by_server(&place.root).unwrap();
}

#[tokio::test]
async fn a_cluster_of_root_or_of_another_version_is_refused() {
    let place = Place::new();
    let data = place.root.join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("PG_VERSION"), "14000\n").unwrap();
    if Uid::effective().is_root() {
        let error = Server::start(place.settings()).await.unwrap_err();
        assert!(matches!(error, PostgresError::NotOurs { owner: 0, .. }), "{error}");
        std::os::unix::fs::chown(&data, Some(65_534), Some(65_534)).unwrap();
    }
    let error = Server::start(place.settings()).await.unwrap_err();
    assert!(matches!(error, PostgresError::OtherVersion { major: 14_000, .. }), "{error}");
}

#[tokio::test]
async fn binaries_that_are_not_postgres_are_refused_with_what_to_install() {
    let place = Place::new();
    let settings = Settings { bin_dir: Some(PathBuf::from("/usr")), ..place.settings() };
    let error = Server::start(settings).await.unwrap_err();
    assert!(matches!(error, PostgresError::NotPostgres { .. }), "{error}");
    assert!(PostgresError::NotInstalled.to_string().contains("apt-get install postgresql"));
}

/// Not a test: the engine of [`OtherEngine`]. It starts a server and waits to be killed.
#[tokio::test]
#[ignore = "a process for another test"]
async fn another_engine() {
    let data_dir = std::env::var_os(DATA_DIR).unwrap().into();
    let _server = Server::start(Settings { data_dir, durable: false, bin_dir: None }).await.unwrap();
    println!("{SERVES}");
    std::future::pending().await
}

const DATA_DIR: &str = "SOUK_TEST_DATA_DIR";
const SERVES: &str = "another engine's Postgres serves";

/// A second engine in a process, and process group, of its own.
struct OtherEngine(Child);

impl OtherEngine {
    fn start(place: &Place) -> Self {
        let mut engine = Self::spawn(place);
        let said = BufReader::new(engine.0.stdout.take().expect("it is piped"));
        let serves = said.lines().map_while(Result::ok).any(|line| line.contains(SERVES));
        assert!(serves, "the other engine did not start");
        engine
    }

    fn spawn(place: &Place) -> Self {
        let process = Command::new(std::env::current_exe().expect("this test's path"))
            .args(["--ignored", "--exact", "--nocapture", "embedded::another_engine"])
            .env(DATA_DIR, &place.root)
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test binary runs");
        Self(process)
    }

    /// What it has started goes on.
    fn kill_alone(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it is our child");
    }

    /// What a terminal does on Ctrl-C, only worse.
    fn kill_with_its_process_group(self) {
        drop(self);
    }
}

impl Drop for OtherEngine {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.0.id().try_into().expect("a pid"));
        killpg(group, Signal::SIGKILL).ok();
        self.0.wait().ok();
    }
}

/// A data directory that takes its server with it, even from a test that fails.
struct Place {
    _dir: TempDir,
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        Self::below("souk")
    }

    /// Below a directory that `postgres` may pass, unlike `tempfile`'s own.
    fn below(path: &str) -> Self {
        let open = fs::Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().prefix("souk-pg-").permissions(open).tempdir_in("/tmp").expect("/tmp");
        Self { root: dir.path().join(path), _dir: dir }
    }

    fn settings(&self) -> Settings {
        Settings { data_dir: self.root.clone(), durable: false, bin_dir: None }
    }

    async fn start(&self) -> Server {
        Server::start(self.settings()).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Whom `postmaster.pid` names, dead or alive.
    fn postmaster(&self) -> Option<Pid> {
        let pid_file = fs::read_to_string(self.root.join("data/postmaster.pid")).ok()?;
        Some(Pid::from_raw(pid_file.lines().next()?.parse().ok()?))
    }

    /// How many of the postmaster's sockets the kernel lists as TCP.
    fn tcp_sockets(&self) -> usize {
        let descriptors =
            fs::read_dir(format!("/proc/{}/fd", self.postmaster().expect("a server"))).expect("its files");
        let links = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        let sockets: HashSet<String> = links
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        assert!(!sockets.is_empty(), "not even a unix socket");
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
        let inodes = tables.iter().flat_map(|table| table.lines()).filter_map(|line| line.split_whitespace().nth(9));
        inodes.filter(|inode| sockets.contains(*inode)).count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(pid) = self.postmaster() else { return };
        let ours = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.root));
        if ours && kill(pid, Signal::SIGQUIT).is_ok() {
            let patience = Instant::now() + PATIENCE;
            while Path::new(&format!("/proc/{pid}/cwd")).exists() && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn processes_below(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    pids.filter(child).map(Pid::from_raw).collect()
}

async fn connect(server: &Server) -> PgConnection {
    PgConnection::connect_with(&server.connect_options()).await.expect("the server accepts connections")
}

async fn put_lamps(server: &Server) {
    let mut connection = connect(server).await;
    sqlx::raw_sql("create table lamp as select 7 as stock").execute(&mut connection).await.expect("a new table");
}

async fn lamps(server: &Server) -> i32 {
    let mut connection = connect(server).await;
    sqlx::query_scalar("select stock from lamp").fetch_one(&mut connection).await.expect("the lamps are there")
}
