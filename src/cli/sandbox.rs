//! `souk sandbox`: the providers' stand-in, as a process of its own.

use std::{
    fs::{self, File},
    io,
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    process::Command,
    signal::unix::{Signal, SignalKind, signal},
};

use super::Failure;
use crate::{
    config::{Config, Mode},
    sandbox::{self, MailSettings, Settings, ShippoSettings},
};

/// How long a sandbox may take to start: it makes its keys when it first does.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn run(config: Config) -> Result<ExitCode, Failure> {
    if config.mode == Mode::Production {
        return Err("the sandbox is not for production".into());
    }
    let sandbox = sandbox::start(settings(&config)).await?;
    let mut signals = Signals::listen()?;
    tracing::info!(addr = %sandbox.addr, dir = %config.sandbox.dir.display(), "the sandbox serves");
    tokio::select! {
        _ = signals.next() => tracing::info!("the sandbox was told to stop"),
        () = sandbox.wait() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The sandbox's side of the shop's settings.
#[must_use]
pub(crate) fn settings(config: &Config) -> Settings {
    Settings {
        listen: config.sandbox.listen,
        dir: config.sandbox.dir.clone(),
        client_id: config.paypal.client_id.clone(),
        client_secret: config.paypal.client_secret.expose().to_owned(),
        webhook_id: config.paypal.webhook_id.clone(),
        webhook_url: format!("{}/v1/webhooks/paypal", config.http.public_url),
        retry: Settings::default_retry(),
        shippo: ShippoSettings {
            key: config.sandbox.shippo_key.expose().to_owned(),
            webhook_url: Some(config.sandbox.shippo_webhook_url.expose().to_owned()),
            webhook_secret: Some(config.sandbox.shippo_webhook_secret.expose().to_owned()).filter(|it| !it.is_empty()),
            ..ShippoSettings::default()
        },
        mail: MailSettings { listen: config.sandbox.smtp_listen, ..MailSettings::default() },
    }
}

/// A sandbox that runs beside the shop as a process of its own: it outlives a killed shop, as a provider would.
pub(super) struct Beside {
    base: String,
    /// Whether it was started for this shop rather than found.
    pub(super) started: bool,
}

impl Beside {
    /// Starts one, or takes over the one that a killed or superseded shop has left.
    pub(super) async fn start(config: &Config, file: Option<&Path>) -> Result<Self, Failure> {
        let mut beside = Self { base: format!("http://{}", config.sandbox.listen), started: false };
        if let Some(dir) = beside.dir().await {
            if dir != config.sandbox.dir.display().to_string() {
                return Err(
                    format!("another sandbox serves at {}, with its books in {dir}", config.sandbox.listen).into()
                );
            }
            if config.sandbox.dir.join("root.pem").exists() {
                let settings = settings(config);
                beside.call_back("settings", &settings.webhook_url).await?;
                if let Some(url) = &settings.shippo.webhook_url {
                    beside.call_back("shippo/settings", url).await?;
                }
                tracing::info!(addr = %config.sandbox.listen, "a sandbox is here already");
                return Ok(beside);
            }
            // its books were deleted under it: nobody can trust it any more
            beside.stop().await;
            while beside.dir().await.is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        beside.started = true;
        let mut child = spawn(config, file)?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while beside.dir().await.is_none() {
            if let Some(status) = child.try_wait()? {
                return Err(format!("the sandbox ended with {status}; see {}", log_path(config).display()).into());
            }
            if tokio::time::Instant::now() > deadline {
                return Err("the sandbox does not start".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // reaped when it ends; it does not end with us unless it is told to
        tokio::spawn(async move { child.wait().await });
        Ok(beside)
    }

    /// The books of the sandbox that serves there, if one does.
    async fn dir(&self) -> Option<String> {
        let health =
            reqwest::Client::new().get(format!("{}/_sandbox/health", self.base)).timeout(Duration::from_secs(2));
        let health: Value = health.send().await.ok()?.json().await.ok()?;
        health["dir"].as_str().filter(|_| health["souk_sandbox"] == true).map(str::to_owned)
    }

    /// Tells one half of it where this shop is: the one that it was started by may have been elsewhere.
    async fn call_back(&self, settings: &str, webhook_url: &str) -> Result<(), Failure> {
        let settings = format!("{}/_sandbox/{settings}", self.base);
        let told = reqwest::Client::new().post(settings).json(&json!({ "webhook_url": webhook_url }));
        let told = told.timeout(Duration::from_secs(5)).send().await.and_then(reqwest::Response::error_for_status);
        told.map_err(|error| format!("the sandbox at {} does not listen to this shop: {error}", self.base))?;
        Ok(())
    }

    /// Ends it, with the shop.
    pub(super) async fn stop(&self) {
        let stop = reqwest::Client::new().post(format!("{}/_sandbox/stop", self.base)).timeout(Duration::from_secs(5));
        if let Err(error) = stop.send().await {
            tracing::warn!(%error, "the sandbox could not be stopped");
        }
    }
}

fn log_path(config: &Config) -> std::path::PathBuf {
    config.sandbox.dir.join("log")
}

fn spawn(config: &Config, file: Option<&Path>) -> io::Result<tokio::process::Child> {
    fs::create_dir_all(&config.sandbox.dir)?;
    let log = File::options().create(true).append(true).open(log_path(config))?;
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(file) = file {
        command.arg("--config").arg(file);
    }
    command
        .arg("sandbox")
        // what the shop has settled on: data_dir may have been chosen, the port may have been free
        .env("SOUK_HTTP__PUBLIC_URL", &config.http.public_url)
        .env("SOUK_SANDBOX__DIR", &config.sandbox.dir)
        .env_remove("SOUK_FAULT")
        .process_group(0) // Ctrl-C is for the shop, which then stops it in order
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
}

/// Ctrl-C and the polite kill, one after the other as they come.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on neither ends the process by itself.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Resolves at the next one, with the exit code of a process that it ends.
    pub(super) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}
