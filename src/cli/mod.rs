//! The command line; a file per command that does more than call.

mod audit;
mod dead_letters;
mod hammer;
mod import;
mod sandbox;
mod seed;
mod serve;
mod tree;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{config::Config, database, telemetry};

/// Souk, a commerce engine: every SKU and every order is an actor, every change a Postgres transaction.
#[derive(Parser)]
#[command(
    name = "souk",
    version,
    after_help = "Settings: config.toml in the source is the manual and the defaults. A file given with --config overrides \
                  them, variables override both, e.g. SOUK_HTTP__LISTEN=127.0.0.1:9000.\n\n\
                  First steps: `souk serve`, then open http://127.0.0.1:8080/"
)]
struct Cli {
    /// A file of settings that override the defaults.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the shop: starts Postgres where none is configured, migrates, and in development seeds a demo catalogue and
    /// starts the provider sandbox.
    Serve,
    /// Serve the provider sandbox alone: PayPal on loopback, with books on disk and faults on request.
    Sandbox,
    /// Bring the database's schema up to date, and end.
    Migrate,
    /// Put the demo catalogue into a running shop that sells nothing yet, or a large one to try things on.
    Seed {
        /// So many SKUs, BULK-1 and so on, a hundred of each, instead of the demo catalogue.
        #[arg(long, value_name = "N")]
        skus: Option<u32>,
    },
    /// Bring a file into a running shop.
    Import {
        #[command(subcommand)]
        what: import::What,
    },
    /// Show the supervision tree of a running shop.
    Tree {
        /// How many actors of each kind, the troubled and busy first.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// List the mails and calls of merchants that were given up, or have them tried again.
    DeadLetters {
        /// A dead letter's id, or `all`.
        #[arg(long, value_name = "ID")]
        replay: Option<String>,
    },
    /// Load for a running shop over HTTP, and a verdict: whether all that it acknowledged is true. Exits with 1 if not.
    ///
    /// Puts SKUs of its own on the shelf (by the staff's API), sends buyers, and prints a table of what they were told and
    /// how long it took. Each acknowledged order is written to a journal before it is counted. At the end whoever got no
    /// answer asks again with the same key, and the journal is held against the shop: every acknowledged order is there,
    /// once; stock and ledger agree; nothing is oversold; the audit is clean. The shop may be killed and restarted meanwhile.
    ///
    /// Orders stay in the shop: use one whose books nobody needs. Ctrl-C ends the load, and the table and verdict come.
    Hammer {
        #[command(subcommand)]
        what: hammer::What,
    },
    /// Check everything that must be true of the database; prints what is not, and then exits with 1.
    Audit,
}

/// What a command ends with when it fails: one line for a person.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What to do where a command needs a running shop, and there is none.
fn nobody(config: &Config) -> Failure {
    format!("no shop answers at {}; start one with `souk serve`", config.http.listen).into()
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("souk: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> Result<ExitCode, Failure> {
    let config = Config::load(cli.config.as_deref(), variables()?.into_iter())?;
    telemetry::start_logging(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        match cli.command {
            Command::Serve => serve::run(config, cli.config).await,
            Command::Sandbox => sandbox::run(config).await,
            Command::Migrate => migrate(config).await,
            Command::Seed { skus } => seed::run(config, skus).await,
            Command::Import { what } => import::run(config, what).await,
            Command::Tree { limit } => tree::run(config, limit).await,
            Command::DeadLetters { replay } => dead_letters::run(config, replay).await,
            Command::Hammer { what } => hammer::run(config, what).await,
            Command::Audit => audit::run(config).await,
        }
    });
    // a name look-up or a file that hangs must not keep a stopped shop alive
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

/// This process' variables, as far as they are text; ours have to be.
fn variables() -> Result<Vec<(String, String)>, Failure> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let ours = name.as_encoded_bytes().starts_with(b"SOUK_");
        match (name.to_str(), value.to_str()) {
            (Some(name), Some(value)) => variables.push((name.to_owned(), value.to_owned())),
            _ if ours => return Err(format!("{}: is not UTF-8", name.display()).into()),
            _ => {}
        }
    }
    Ok(variables)
}

async fn migrate(config: Config) -> Result<ExitCode, Failure> {
    let opened = database::open(&config.database).await?;
    let migrated = database::migrate(&opened.connect).await;
    if let Some(server) = opened.server {
        server.stop().await?;
    }
    migrated?;
    println!("The database is up to date.");
    Ok(ExitCode::SUCCESS)
}
