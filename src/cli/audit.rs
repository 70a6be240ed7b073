//! `souk audit`: asks the database, whether a shop runs on it or not.

use std::process::ExitCode;

use souk_actors::{clock::Clock, store::audit};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::Failure;
use crate::{config::Config, database};

pub(super) async fn run(config: Config) -> Result<ExitCode, Failure> {
    let opened = database::open(&config.database).await?;
    let findings = ask(opened.connect).await;
    if let Some(server) = opened.server {
        server.stop().await?; // only if nobody else uses it
    }
    let findings = findings?;
    for finding in &findings {
        println!("{}: not true that {}", finding.check, finding.sentence);
        for row in &finding.rows {
            println!("  {row}");
        }
    }
    if findings.is_empty() {
        println!("Clean: {} checks, nothing found.", audit::CHECKS.len());
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

async fn ask(connect: PgConnectOptions) -> Result<Vec<audit::Finding>, sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).connect_with(connect.application_name("souk audit")).await?;
    let clock = Clock::default();
    clock.calibrate(sqlx::query_scalar("select clock_timestamp()").fetch_one(&pool).await?);
    let findings = audit::run(&pool, clock.now()).await;
    pool.close().await;
    findings
}
