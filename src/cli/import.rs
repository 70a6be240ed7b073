//! `souk import`: brings a file into a running shop over HTTP, and follows it to its end.

use std::{
    fmt::Write as _,
    fs,
    io::{self, IsTerminal, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Subcommand, ValueEnum};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Failure;
use crate::{app, config::Config, gateways::Secret};

/// How often progress is asked for.
const LOOK: Duration = Duration::from_millis(200);
/// How long a shop may be away in the middle: a restart is no failure.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Subcommand)]
pub(super) enum What {
    /// Correct stock by a CSV file: `code,delta,reason` or `code,set,expected,reason`. Exits with 1 if a line failed.
    Stock {
        /// The file.
        file: PathBuf,
        /// What becomes of a file with bad lines.
        #[arg(long, value_enum, default_value_t = Mode::All)]
        mode: Mode,
        /// The shop's address; of this machine's shop where it is not given.
        #[arg(long)]
        url: Option<String>,
        /// The import's idempotency key: a file is applied once a key. The file's own content where it is not given, so
        /// that whoever is unsure may simply say it again within three days, as long as keys are kept.
        #[arg(long)]
        key: Option<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Mode {
    /// Nothing of it is applied.
    All,
    /// The good lines are applied.
    Partial,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Partial => "partial",
        }
    }
}

/// A shop, as its staff reach it.
struct Shop {
    client: Client,
    url: String,
    token: Secret,
}

pub(super) async fn run(config: Config, what: What) -> Result<ExitCode, Failure> {
    let What::Stock { file, mode, url, key } = what;
    let body = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let url = url.unwrap_or_else(|| format!("http://{}", config.http.listen));
    let shop =
        Shop { client: Client::new(), url: url.trim_end_matches('/').to_owned(), token: app::staff_token(&config)? };
    let key = key.unwrap_or_else(|| content_key(&body));
    let Some(import) = shop.bring(body, mode, &key).await? else { return Ok(ExitCode::FAILURE) };
    let import_id = import["import_id"].as_str().unwrap_or_default().to_owned();
    let done = shop.follow(&import_id).await?;
    println!("{import_id}: {} of {} lines applied, {} failed.", done["applied"], done["total"], done["failed"]);
    if done["failed"] == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    shop.print_errors(&format!("/v1/admin/stock/imports/{import_id}/errors")).await?;
    Ok(ExitCode::FAILURE)
}

fn content_key(body: &[u8]) -> String {
    Sha256::digest(body).iter().take(16).fold("file-".to_owned(), |mut key, byte| {
        write!(key, "{byte:02x}").ok(); // a String takes everything
        key
    })
}

impl Shop {
    /// Sends the file. None: it was refused, and why has been said.
    async fn bring(&self, body: Vec<u8>, mode: Mode, key: &str) -> Result<Option<Value>, Failure> {
        let url = format!("{}/v1/admin/stock/imports?mode={}", self.url, mode.as_str());
        let request = self.client.post(url).header("idempotency-key", key).header("content-type", "text/csv");
        let answer = request.bearer_auth(self.token.expose()).body(body).send().await.map_err(|_| self.nobody())?;
        let (status, replayed) = (answer.status(), answer.headers().contains_key("idempotent-replayed"));
        let said: Value = answer.json().await?;
        if status == StatusCode::ACCEPTED {
            if replayed {
                println!(
                    "This file was brought before; nothing is applied again. Give another --key to apply it again."
                );
            }
            return Ok(Some(said));
        }
        let text = |field: &str| said[field].as_str().unwrap_or_default();
        eprintln!("souk: {}: {}", text("code"), text("detail"));
        if let Some(errors) = said["errors_url"].as_str() {
            self.print_errors(errors).await?;
        }
        Ok(None)
    }

    /// Waits for the end of an import, and shows how far it is where somebody watches.
    async fn follow(&self, import_id: &str) -> Result<Value, Failure> {
        let watched = io::stderr().is_terminal();
        let mut heard = Instant::now();
        loop {
            match self.get(&format!("/v1/admin/stock/imports/{import_id}")).await {
                Ok(import) => {
                    heard = Instant::now();
                    if watched {
                        eprint!("\r{} of {} applied, {} failed ", import["applied"], import["total"], import["failed"]);
                        io::stderr().flush()?;
                    }
                    if import["state"] != "applying" {
                        if watched {
                            eprintln!();
                        }
                        return Ok(import);
                    }
                }
                Err(failure) if heard.elapsed() > PATIENCE => return Err(failure),
                Err(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn print_errors(&self, path: &str) -> Result<(), Failure> {
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}?limit=100{cursor}")).await?;
            for error in page["errors"].as_array().into_iter().flatten() {
                let text = |field: &str| error[field].as_str().unwrap_or_default();
                println!("line {}: {}: {}: {}", error["line"], text("code"), text("problem"), text("detail"));
            }
            let Some(next) = page["next_cursor"].as_str() else { return Ok(()) };
            cursor = format!("&cursor={next}");
        }
    }

    async fn get(&self, path: &str) -> Result<Value, Failure> {
        let request: RequestBuilder = self.client.get(format!("{}{path}", self.url)).bearer_auth(self.token.expose());
        let answer = request.timeout(PATIENCE).send().await.map_err(|_| self.nobody())?;
        Ok(answer.error_for_status()?.json().await?)
    }

    fn nobody(&self) -> Failure {
        format!("no shop answers at {}; start one with `souk serve`", self.url).into()
    }
}
