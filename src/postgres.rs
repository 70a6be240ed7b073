//! The default database: a Postgres of our own, for a machine where nobody has set one up.
//!
//! [`Server::start`] finds the machine's Postgres binaries, initialises a cluster below one directory and starts it, or
//! adopts the server that is already there. What it keeps on disk:
//!
//! ```text
//! engine.lock   flocked by the one process that may initialise, start and stop the server
//! data/         the cluster; `data.init/` while it is being initialised
//! s/            the socket: who can enter this directory is let in, and nobody else
//! start.log     what the server said before it opened its log
//! log/          postgres-Mon.log … postgres-Sun.log: a week, each day written over its predecessor
//! ```
//!
//! The server has no TCP port and never runs as root. It outlives a killed engine, and a Ctrl-C in the engine's terminal
//! does not reach it: [`Server::stop`] ends it, dropping the handle does not.

mod machine;

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

pub use self::machine::usable_by_server;
use self::machine::{Account, OLDEST, find_binaries, make_root, private_dir, quarter_of_memory, socket_dir};

/// The cluster's superuser.
const USER: &str = "souk";
/// Part of the socket's file name; no such port is opened.
const PORT: u16 = 5432;
/// macOS has no `C.UTF-8`.
const LOCALE: &str = if cfg!(target_os = "macos") { "en_US.UTF-8" } else { "C.UTF-8" };

/// How soon a start that failed is tried again. After a kill Postgres refuses to start, rightly, for the seconds in
/// which the old processes or their shared memory are still there.
const RETRY: Duration = Duration::from_millis(300);
/// For how long a start that fails is tried again. A server that is busy recovering gets all the time it needs.
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon a server that is starting is asked again.
const POLL: Duration = Duration::from_millis(30);
/// How often an adopted server is looked at; of our own child's end we hear at once.
const LOOK: Duration = Duration::from_secs(1);
/// The longest pause before a server that keeps dying is started once more, and the life that proves it well.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long a server may take to stop, or to answer a question.
const STOP: Duration = Duration::from_secs(60);
const REPLY: Duration = Duration::from_secs(5);

/// Why there is no embedded server. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error(
        "no PostgreSQL {OLDEST} or newer on this machine: `apt-get install postgresql` (Debian, Ubuntu), \
         `dnf install postgresql-server postgresql-contrib` (Fedora) or `brew install postgresql@17` (macOS); \
         or set SOUK_POSTGRES_BIN to the directory that holds `initdb`"
    )]
    NotInstalled,
    #[error("{bin_dir} does not hold the initdb, pg_ctl and postgres of a PostgreSQL {OLDEST} or newer")]
    NotPostgres { bin_dir: PathBuf },
    #[error(
        "{data} was written by PostgreSQL {major}, which is not found here: `apt-get install postgresql-{major}` or \
         `brew install postgresql@{major}`, or move the data to a newer version with pg_upgrade"
    )]
    OtherVersion { data: PathBuf, major: u32 },
    #[error("Postgres refuses to run as root, and there is no user to run it as: `useradd --system postgres`")]
    NoAccount,
    #[error("{path} belongs to uid {owner}, and Postgres would not run as that user: give it another owner or place")]
    NotOurs { path: PathBuf, owner: u32 },
    #[error("{path} must be a directory of the user that Postgres runs as, and nobody else's: `chmod 700 {path}`?")]
    NotPrivate { path: PathBuf },
    #[error(
        "Postgres would run as {account}, who may not pass {parent}: `chmod o+x {parent}`, or keep the data elsewhere, \
         for instance in /var/lib/souk"
    )]
    Unreachable { parent: PathBuf, account: String },
    #[error(
        "{data} is served by a Postgres that was started otherwise (its socket is in {socket_dir}, durable: {durable}): \
         end it with `pg_ctl stop -D {data}`"
    )]
    Foreign { data: PathBuf, socket_dir: PathBuf, durable: bool },
    #[error("{program} failed: {output}")]
    Failed { program: &'static str, output: String },
    #[error("Postgres does not start; {log} ends with:\n{words}")]
    NotStarted { log: PathBuf, words: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Says which path an I/O error is about.
fn at(path: &Path) -> impl FnOnce(io::Error) -> PostgresError {
    move |source| PostgresError::Io { path: path.to_owned(), source }
}

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Holds all that the server keeps; made when missing.
    pub data_dir: PathBuf,
    /// Whether a commit survives a power cut. Only tests say no.
    pub durable: bool,
    /// Where the binaries are; when `None`, `$SOUK_POSTGRES_BIN` or the usual places.
    pub bin_dir: Option<PathBuf>,
}

/// A running server, and this process' claim to it.
#[derive(Debug)]
pub struct Server {
    root: PathBuf,
    data: PathBuf,
    socket_dir: PathBuf,
    bin_dir: PathBuf,
    durable: bool,
    account: Account,
    lock: File,
    /// Whether `lock` is ours.
    owner: bool,
    /// The postmaster, if it is our child.
    child: Option<Child>,
}

/// What a data directory's server answers.
enum Answer {
    Ready { pid: Option<u32> },
    Recovering,
    Nothing,
}

impl Server {
    /// Returns when the server accepts connections: one that already runs, or a new one, on a new cluster if need be.
    ///
    /// # Errors
    /// No usable binaries, account, directory or socket, or a server that would not start for half a minute.
    pub async fn start(settings: Settings) -> Result<Self, PostgresError> {
        usable_by_server(&settings.data_dir)?;
        let root = make_root(&settings.data_dir)?;
        let data = root.join("data");
        let account = Account::for_data(&data)?;
        let bin_dir = find_binaries(settings.bin_dir, &data, &account).await?;
        let socket_dir = socket_dir(&root, &account)?;
        private_dir(&root.join("log"), &account)?;
        let lock_path = root.join("engine.lock");
        let lock = File::options().create(true).append(true).open(&lock_path).map_err(at(&lock_path))?;

        let durable = settings.durable;
        let mut server = Self { root, data, socket_dir, bin_dir, durable, account, lock, owner: false, child: None };
        server.bring_up().await?;
        info!(data = %server.data.display(), account = %server.account, adopted = server.adopted(), "Postgres serves");
        Ok(server)
    }

    /// How to reach the server's own database, `postgres`, as its superuser. The same over the server's whole life.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        // The host is unused beside a socket; set all the same, so that nothing comes from the environment.
        PgConnectOptions::new_without_pgpass()
            .host("localhost")
            .socket(&self.socket_dir)
            .port(PORT)
            .username(USER)
            .database("postgres")
            .application_name("souk")
            .ssl_mode(PgSslMode::Disable)
    }

    /// Whether the server was running before us: another engine's, or left by one that was killed.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.child.is_none()
    }

    /// Brings the server back whenever it is gone, ever more patiently if it keeps dying. Never returns: drop the future
    /// to end the watch, at any point.
    pub async fn watch(&mut self) {
        let mut pause = Duration::ZERO;
        loop {
            let since = Instant::now();
            self.gone().await;
            pause = if since.elapsed() > PAUSE_MAX { Duration::ZERO } else { (pause * 2).clamp(RETRY, PAUSE_MAX) };
            warn!(?pause, "Postgres is gone and will be started again");
            sleep(pause).await;
            match self.bring_up().await {
                Ok(()) => info!("Postgres serves again"),
                Err(error) => error!(%error, "Postgres stays away"),
            }
        }
    }

    /// Stops the server, unless another engine holds its lock: what is committed is on disk, what is not is rolled back.
    ///
    /// # Errors
    /// The server is still there after a minute.
    pub async fn stop(mut self) -> Result<(), PostgresError> {
        if !self.claim()? {
            return Ok(());
        }
        let Some(mut child) = self.child.take() else { return self.stop_adopted().await };
        if let Some(pid) = child.id().and_then(|pid| pid.try_into().ok()) {
            // Postgres' word for a fast shutdown; it arrives even before the server has written its pid file.
            kill(Pid::from_raw(pid), Signal::SIGINT).map_err(|errno| at(&self.data)(errno.into()))?;
        }
        let late = |_| PostgresError::Failed { program: "postgres", output: "it is still shutting down".into() };
        timeout(STOP, child.wait()).await.map_err(late)?.map_err(at(&self.data))?;
        Ok(())
    }

    async fn stop_adopted(&self) -> Result<(), PostgresError> {
        if !self.listens().await {
            return Ok(());
        }
        let mut command = self.account.command(&self.bin_dir.join("pg_ctl"));
        command.args(["stop", "--mode=fast", "--wait"]).arg(format!("--timeout={}", STOP.as_secs()));
        run("pg_ctl", command.arg("-D").arg(&self.data)).await
    }

    /// Returns once somebody serves: a server that runs, our own new one, or one that the lock's holder starts meanwhile.
    async fn bring_up(&mut self) -> Result<(), PostgresError> {
        let mut give_up = Instant::now() + PATIENCE;
        loop {
            let owner = self.claim()?;
            if let Some(child) = &mut self.child
                && child.try_wait().map_err(at(&self.data))?.is_some()
            {
                self.child = None;
            }
            match self.ask().await? {
                Answer::Ready { pid } => {
                    // A child that came second to a running server is about to leave.
                    self.child = self.child.take().filter(|child| child.id() == pid);
                    return Ok(());
                }
                Answer::Recovering => give_up = Instant::now() + PATIENCE,
                Answer::Nothing if owner && self.child.is_none() => {
                    if !self.data.exists() {
                        self.initialise().await?;
                    }
                    self.launch()?;
                }
                Answer::Nothing => {}
            }
            if Instant::now() > give_up {
                return Err(self.last_words());
            }
            sleep(if self.child.is_some() { POLL } else { RETRY }).await;
        }
    }

    /// Takes the lock if nobody has it. The kernel frees it when its holder dies, however that happens.
    fn claim(&mut self) -> Result<bool, PostgresError> {
        if !self.owner {
            self.owner = match self.lock.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => false,
                Err(TryLockError::Error(source)) => return Err(at(&self.root.join("engine.lock"))(source)),
            };
        }
        Ok(self.owner)
    }

    /// Asks whoever `postmaster.pid` names whether it serves this cluster. The file is no proof: a killed server leaves
    /// it behind, and it is Postgres' to delete, never ours.
    async fn ask(&self) -> Result<Answer, PostgresError> {
        let pid_file = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let [pid, _data, _since, port, socket_dir, ..] = pid_file.lines().collect::<Vec<_>>()[..] else {
            return Ok(Answer::Nothing);
        };
        let Ok(port) = port.parse() else { return Ok(Answer::Nothing) };
        let options = self.connect_options().socket(socket_dir).port(port);
        let mut connection = match timeout(REPLY, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(sqlx::Error::Database(refusal))) if refusal.code().as_deref() == Some("57P03") => {
                return Ok(Answer::Recovering);
            }
            Ok(Err(_)) | Err(_) => return Ok(Answer::Nothing),
        };
        let question = sqlx::query_as::<_, (String, bool)>(
            "select current_setting('data_directory'), bool_and(setting = 'on') from pg_settings
             where name in ('fsync', 'full_page_writes')",
        );
        let Ok((data, durable)) = question.fetch_one(&mut connection).await else { return Ok(Answer::Nothing) };
        connection.close().await.ok();
        if fs::canonicalize(data).ok().as_ref() != Some(&self.data) {
            return Ok(Answer::Nothing);
        }
        let socket_dir = PathBuf::from(socket_dir);
        if port != PORT || socket_dir != self.socket_dir || (self.durable && !durable) {
            return Err(PostgresError::Foreign { data: self.data.clone(), socket_dir, durable });
        }
        Ok(Answer::Ready { pid: pid.parse().ok() })
    }

    /// Makes the cluster under another name: `data` is whole or is not there. `initdb` has our lock for its standard
    /// input, so that it keeps the lock for as long as it writes, even if we are killed.
    async fn initialise(&self) -> Result<(), PostgresError> {
        let unborn = self.root.join("data.init");
        if unborn.exists() {
            warn!(path = %unborn.display(), "removing what an interrupted initdb left");
            fs::remove_dir_all(&unborn).map_err(at(&unborn))?;
        }
        private_dir(&unborn, &self.account)?;
        info!(data = %self.data.display(), "initialising a Postgres cluster");
        let mut command = self.account.command(&self.bin_dir.join("initdb"));
        command.arg("-D").arg(&unborn).arg("--username").arg(USER).arg("--locale").arg(LOCALE);
        command.args(["--encoding=UTF8", "--data-checksums", "--auth-local=trust", "--auth-host=reject"]);
        if !self.durable {
            command.arg("--no-sync");
        }
        command.stdin(self.lock.try_clone().map_err(at(&self.root))?);
        run("initdb", &mut command).await?;
        fs::rename(&unborn, &self.data).map_err(at(&self.data))?;
        File::open(&self.root).and_then(|root| root.sync_all()).map_err(at(&self.root))
    }

    /// Starts the postmaster as our child, so that a dead one is reaped at once, but in a process group of its own.
    fn launch(&mut self) -> Result<(), PostgresError> {
        let log_path = self.root.join("start.log");
        let log = File::create(&log_path).map_err(at(&log_path))?;
        let program = self.bin_dir.join("postgres");
        let mut command = self.account.command(&program);
        command.process_group(0).arg("-D").arg(&self.data);
        for (name, value) in self.parameters() {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdout(log.try_clone().map_err(at(&log_path))?).stderr(log);
        self.child = Some(command.spawn().map_err(at(&program))?);
        Ok(())
    }

    /// Settings for the command line, where no file and no `alter system` overrules them.
    fn parameters(&self) -> [(&'static str, String); 22] {
        let durable = if self.durable { "on" } else { "off" };
        let shared_buffers = if self.durable { quarter_of_memory().clamp(128, 1024) } else { 128 };
        [
            ("listen_addresses", String::new()),
            ("port", PORT.to_string()),
            ("unix_socket_directories", self.socket_dir.display().to_string()),
            ("unix_socket_permissions", "0700".into()),
            ("fsync", durable.into()),
            ("full_page_writes", durable.into()),
            ("synchronous_commit", "on".into()), // costs little without fsync, and a killed server keeps its commits
            ("max_connections", "100".into()),
            ("shared_buffers", format!("{shared_buffers}MB")),
            ("wal_compression", "on".into()),
            // zeroing a fresh 16 MB of it stops every writer for 20 ms, three times a second in a rush
            ("wal_init_zero", "off".into()),
            ("max_wal_size", "8GB".into()),
            ("checkpoint_timeout", "15min".into()),
            ("idle_in_transaction_session_timeout", "30s".into()),
            ("lock_timeout", "5s".into()),
            ("logging_collector", "on".into()),
            ("log_directory", "../log".into()),
            ("log_filename", "postgres-%a.log".into()),
            ("log_rotation_size", "0".into()),
            ("log_truncate_on_rotation", "on".into()),
            ("log_line_prefix", "%m [%p] %a ".into()),
            ("log_error_verbosity", "terse".into()), // a DETAIL quotes the row: a buyer's mail, a token
        ]
    }

    /// Returns when there is no server. Of an adopted one's owner that died meanwhile we take over the lock.
    async fn gone(&mut self) {
        if let Some(child) = &mut self.child {
            child.wait().await.ok();
            return;
        }
        while self.listens().await {
            self.claim().ok();
            sleep(LOOK).await;
        }
    }

    /// Whether somebody listens on the socket: cheaper than a session, and true of a server that is full.
    async fn listens(&self) -> bool {
        match UnixStream::connect(self.socket_dir.join(socket_name())).await {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::ConnectionRefused && error.kind() != ErrorKind::NotFound,
        }
    }

    /// The end of whichever log was written last.
    fn last_words(&self) -> PostgresError {
        let days = fs::read_dir(self.root.join("log")).into_iter().flatten().flatten().map(|day| day.path());
        let written = |log: &PathBuf| log.metadata().and_then(|metadata| metadata.modified()).ok();
        let log = days.chain([self.root.join("start.log")]).max_by_key(written).unwrap_or_default();
        let text = fs::read(&log).unwrap_or_default();
        let words = String::from_utf8_lossy(&text[text.len().saturating_sub(2_000)..]).trim().to_owned();
        PostgresError::NotStarted { log, words }
    }
}

fn socket_name() -> String {
    format!(".s.PGSQL.{PORT}")
}

/// Runs a command to its end; it ends with us.
async fn run(program: &'static str, command: &mut Command) -> Result<(), PostgresError> {
    let done = command.kill_on_drop(true).output().await.map_err(at(Path::new(program)))?;
    if done.status.success() {
        return Ok(());
    }
    Err(PostgresError::Failed { program, output: String::from_utf8_lossy(&done.stderr).trim().to_owned() })
}
