//! How soon a shop serves again after `kill -9`, with open holds.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use souk::hammer::line::{Line, Target};
use souk_actors::domain::SkuId;
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use tokio::net::TcpListener;

use crate::{
    Outcome, Wanted,
    house::{self, House},
    load::count,
    shop::PATIENCE,
    table::{Table, thousands, verdict},
};

const HOLDS: u64 = 100_000;
/// Seconds.
const READY: f64 = 2.0;

pub(crate) async fn run(house: &House, table: &Table, _: Wanted) -> Outcome<()> {
    let connect = house.database("recovery").await?;
    let engine = house::engine(&connect, 1_000).await?;
    let placed = Arc::clone(&engine);
    count(house, 1_024, HOLDS, move |number| {
        house::checkout(Arc::clone(&placed), SkuId((number % 1_000) as i64 + 1), number)
    })
    .await;
    house::close(engine).await?;

    let shop = Serving::new(house, &connect).await?;
    let (mut child, _) = shop.start().await?; // the first makes the sandbox' keys and takes over from nobody
    let mut worst = 0.0_f64;
    for _ in 0..3 {
        child.kill()?;
        child.wait()?;
        let took;
        (child, took) = shop.start().await?;
        worst = worst.max(took.as_secs_f64());
    }
    signal::kill(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM)?;
    child.wait()?;
    let verdict = verdict(worst <= READY);
    let what = format!("ready after kill -9, {} holds", thousands(HOLDS as f64));
    table.figure(&what, &format!("{worst:.2} s"), &format!("worst of 3, target {READY} s: {verdict}"));
    Ok(())
}

/// `souk serve`, as a process that is killed.
struct Serving {
    variables: Vec<(&'static str, String)>,
    target: Target,
}

impl Serving {
    async fn new(house: &House, connect: &PgConnectOptions) -> Outcome<Self> {
        let [http, sandbox, smtp] = [free_port().await?, free_port().await?, free_port().await?];
        let variables = vec![
            ("SOUK_HTTP__LISTEN", http.clone()),
            ("SOUK_SANDBOX__LISTEN", sandbox),
            ("SOUK_SANDBOX__SMTP_LISTEN", smtp),
            ("SOUK_DATABASE__URL", connect.to_url_lossy().to_string()),
            ("SOUK_DATABASE__DATA_DIR", house.room("recovery")?.display().to_string()),
        ];
        Ok(Self { variables, target: Target::of(&format!("http://{http}")).await? })
    }

    /// A process that is ready, and how long that took.
    async fn start(&self) -> Outcome<(Child, Duration)> {
        let began = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_souk"));
        command.arg("serve").envs(self.variables.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let mut line = Line::new(self.target.clone(), PATIENCE);
        let ask = self.target.request("GET", "/readyz", "", None);
        while line.ask(&ask).await.map_or(0, |reply| reply.status) != 200 {
            if let Some(status) = child.try_wait()? {
                return Err(format!("souk serve ended with {status}").into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok((child, began.elapsed()))
    }
}

async fn free_port() -> Outcome<String> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string())
}
