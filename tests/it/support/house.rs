//! A shop as its owner runs it: `souk serve` as a process of its own, with its own Postgres and its own sandbox, which
//! outlive it when it is killed.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    PATIENCE,
    keys::{keep_keys, lend_keys},
    shop::{Answer, Api, Bank, STAFF},
};

pub(crate) struct House {
    dir: PathBuf,
    pub(crate) api: Api,
    pub(crate) bank: Bank,
    /// `SOUK_…` variables of every process of this house.
    variables: Vec<(String, String)>,
    engine: Option<Child>,
    /// How the last process ended.
    ended: Option<ExitStatus>,
    watcher: Child,
}

impl House {
    /// An empty house with settings of its own; nothing runs yet.
    pub(crate) fn new(settings: &[(&str, &str)]) -> Self {
        let open = fs::Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().prefix("souk-house-").permissions(open).tempdir_in("/tmp").expect("/tmp");
        let dir = dir.keep();
        let (shop, sandbox) = (free_port(), free_port());
        let mut variables = vec![
            ("SOUK_HTTP__LISTEN".to_owned(), format!("127.0.0.1:{shop}")),
            ("SOUK_SANDBOX__LISTEN".to_owned(), format!("127.0.0.1:{sandbox}")),
            ("SOUK_SANDBOX__SMTP_LISTEN".to_owned(), format!("127.0.0.1:{}", free_port())),
            ("SOUK_DATABASE__DATA_DIR".to_owned(), dir.join("souk").display().to_string()),
            ("SOUK_DATABASE__POOL".to_owned(), "8".to_owned()),
            ("SOUK_STAFF_TOKEN".to_owned(), STAFF.to_owned()),
            ("SOUK_SECRET".to_owned(), "what order tokens are made with".to_owned()),
        ];
        variables.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Self {
            api: Api::new(format!("http://127.0.0.1:{shop}")),
            bank: Bank::new(format!("http://127.0.0.1:{sandbox}")),
            variables,
            engine: None,
            ended: None,
            watcher: watcher(&dir),
            dir,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A `souk` of this house.
    pub(crate) fn souk(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_souk"));
        command.args(arguments).current_dir(&self.dir).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SOUK_")) {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().cloned());
        command
    }

    /// Runs a `souk` to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.souk(arguments).output().expect("souk runs")
    }

    /// Starts the shop and returns at once.
    pub(crate) fn exec(&mut self, fault: Option<&str>) {
        assert!(self.engine.is_none(), "it runs already");
        lend_keys(&self.dir.join("souk/sandbox"));
        let mut command = self.souk(&["serve"]);
        if let Some(fault) = fault {
            command.env("SOUK_FAULT", fault);
        }
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log")).expect("a log");
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let engine = command.spawn().expect("souk runs");
        fs::write(self.dir.join("engine.pid"), engine.id().to_string()).expect("a file");
        self.engine = Some(engine);
        self.ended = None;
    }

    /// Starts the shop; how long it took until it was ready, or none if it died before.
    pub(crate) async fn start(&mut self, fault: Option<&str>) -> Option<Duration> {
        let began = Instant::now();
        self.exec(fault);
        while !self.is_ready().await {
            if self.has_ended().is_some() {
                assert!(fault.is_some(), "the shop does not start:\n{}", self.log());
                return None;
            }
            assert!(began.elapsed() < PATIENCE, "the shop does not start:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let took = began.elapsed();
        let health = Answer::of(self.bank.http.get(format!("{}/_sandbox/health", self.bank.base))).await;
        if let Ok(health) = health {
            fs::write(self.dir.join("sandbox.pid"), health.body["pid"].to_string()).expect("a file");
            keep_keys(&self.dir.join("souk/sandbox"));
        }
        Some(took)
    }

    async fn is_ready(&self) -> bool {
        let ready = self.api.request(reqwest::Method::GET, "/readyz").timeout(Duration::from_secs(2));
        Answer::of(ready).await.is_ok_and(|answer| answer.status == 200)
    }

    /// How the shop's process ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        if let Some(engine) = &mut self.engine {
            self.ended = Some(engine.try_wait().expect("it is our child")?);
            self.forget();
        }
        self.ended
    }

    fn forget(&mut self) {
        self.engine = None;
        fs::remove_file(self.dir.join("engine.pid")).ok();
    }

    /// Waits for the end of the shop's process.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(ended) = self.has_ended() {
                return ended;
            }
            assert!(Instant::now() < patience, "it goes on: {}\n{}", self.state(), self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let engine = self.engine.as_ref().expect("it runs");
        kill(Pid::from_raw(engine.id().cast_signed()), signal).expect("it is ours");
    }

    /// What the kernel says of the shop's process.
    fn state(&self) -> String {
        let Some(engine) = &self.engine else { return String::new() };
        let file = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", engine.id())).unwrap_or_default();
        format!("{} in {}", file("stat"), file("wchan"))
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// The postmaster, dead or alive.
    pub(crate) fn postmaster(&self) -> Option<Pid> {
        let file = fs::read_to_string(self.dir.join("souk/data/postmaster.pid")).ok()?;
        Some(Pid::from_raw(file.lines().next()?.parse().ok()?))
    }

    /// The last words of the shop's processes.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4_000)..]).into_owned()
    }

    /// `souk audit`, as a process of its own, is content.
    pub(crate) fn audit(&self) {
        let audit = self.run(&["audit"]);
        let said = String::from_utf8_lossy(&audit.stdout);
        assert!(audit.status.success(), "{said}\n{}", String::from_utf8_lossy(&audit.stderr));
    }

    pub(crate) async fn order_ids(&self) -> Vec<String> {
        let id = |order: &Value| order["order_id"].as_str().expect("an id").to_owned();
        self.api.orders().await.iter().map(id).collect()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.kill().ok();
            engine.wait().ok();
        }
        self.forget();
        // politely first: it may have been started a moment ago, and not be known to the watcher
        let sandbox = self.bank.base.trim_start_matches("http://");
        if let Ok(mut line) = TcpStream::connect(sandbox) {
            let ask = format!(
                "POST /_sandbox/stop HTTP/1.1\r\nHost: {sandbox}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            line.write_all(ask.as_bytes()).ok();
            line.set_read_timeout(Some(Duration::from_secs(2))).ok();
            line.read_to_end(&mut Vec::new()).ok();
        }
        drop(self.watcher.stdin.take());
        self.watcher.wait().ok();
    }
}

/// Below the range that the kernel gives to others.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 400).expect("small") * 25;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Ends everything that lives in the house, and removes it, when our end of its pipe closes, even by `kill -9`.
fn watcher(dir: &Path) -> Child {
    let script = r#"
        cat > /dev/null
        for name in engine sandbox; do
            pid=$(cat "$0/$name.pid" 2> /dev/null) && kill -9 "$pid" 2> /dev/null
        done
        pid=$(head -n 1 "$0/souk/data/postmaster.pid" 2> /dev/null)
        [ -n "$pid" ] && kill -QUIT "$pid" 2> /dev/null
        while [ -n "$pid" ] && kill -0 "$pid" 2> /dev/null; do sleep 0.05; done
        rm -rf "$0"
    "#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(dir).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh runs")
}
