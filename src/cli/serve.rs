//! `souk serve`: everything that a shop needs, started in order and stopped in the reverse order, unless a successor has
//! taken the shop over: to it Postgres and the sandbox are left.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use souk_actors::journal::Condition;
use tokio::{net::TcpListener, sync::watch};

use super::{
    Failure,
    sandbox::{Beside, Signals},
};
use crate::{
    app::{self, App},
    config::{Config, Mode},
    database::{self, Opened},
    postgres::{PostgresError, Server},
    shop::products::{self, Which},
};

/// How a shop ended.
#[derive(Clone, Copy)]
enum End {
    /// It was told to.
    Told,
    /// It could not go on.
    Broken,
    /// A newer one has taken over.
    Superseded,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        match end {
            End::Told => Self::SUCCESS,
            End::Broken | End::Superseded => Self::FAILURE,
        }
    }
}

pub(super) async fn run(mut config: Config, file: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let fault = std::env::var("SOUK_FAULT").ok();
    if config.mode == Mode::Production && fault.is_some() {
        return Err("SOUK_FAULT is not for production".into());
    }
    let files = allow_open_files();
    if files < config.http.listeners as u64 {
        tracing::warn!(files, listeners = config.http.listeners, "fewer files may be open than may listen: ulimit -n");
    }
    // bound first: a port that is taken is found out before anything is started
    let listener = TcpListener::bind(config.http.listen)
        .await
        .map_err(|error| format!("http.listen, {}: {error}", config.http.listen))?;
    let addr = listener.local_addr()?;
    config.http.public_url = config.http.public_url.replace(&config.http.listen.to_string(), &addr.to_string());
    config.http.listen = addr;

    let Opened { connect, server } = database::open(&config.database).await?;
    let (done, stopped) = watch::channel(None);
    let postgres = server.map(|server| tokio::spawn(keep(server, stopped)));
    let served = serve(&config, file, connect, listener, fault).await;
    done.send_replace(Some(served.as_ref().map_or(End::Broken, |end| *end)));
    if let Some(postgres) = postgres {
        postgres.await??;
    }
    served.map(ExitCode::from)
}

/// Every connection is an open file: as many as the system allows. How many that are.
fn allow_open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// Watches the embedded Postgres until the shop has ended, and then stops it or leaves it to the successor.
async fn keep(mut server: Server, mut ended: watch::Receiver<Option<End>>) -> Result<(), PostgresError> {
    let end = tokio::select! {
        () = server.watch() => None,
        end = ended.wait_for(Option::is_some) => end.ok().and_then(|end| *end),
    };
    match end {
        Some(End::Superseded) => Ok(()), // dropped, it goes on, and its lock is the successor's to take
        Some(End::Told | End::Broken) | None => server.stop().await,
    }
}

async fn serve(
    config: &Config,
    file: Option<PathBuf>,
    connect: sqlx::postgres::PgConnectOptions,
    listener: TcpListener,
    fault: Option<String>,
) -> Result<End, Failure> {
    let beside = match config.mode {
        Mode::Development if config.uses_sandbox() || config.ships_by_sandbox() => {
            Some(Beside::start(config, file.as_deref()).await?)
        }
        Mode::Development | Mode::Production => None,
    };
    // before anybody is served: who is ready can also be told to stop
    let mut signals = Signals::listen()?;
    let app = match App::start(config, connect, listener).await {
        Ok(app) => app,
        Err(error) => {
            if let Some(beside) = beside.filter(|beside| beside.started) {
                beside.stop().await; // nobody else would
            }
            return Err(error.into());
        }
    };
    if let Some(fault) = fault {
        app.faults.arm_text(&fault)?;
    }
    greet(config, &app).await;
    let end = tokio::select! {
        _ = signals.next() => {
            tracing::info!("stopping");
            End::Told
        }
        why = app.shop.engine.gave_up() => {
            tracing::error!(why, "stopping");
            End::Broken
        }
    };
    tokio::spawn(async move {
        let code = signals.next().await;
        tracing::warn!("told again while stopping: ending at once");
        std::process::exit(code) // as after a kill: what was begun is taken up by the next start
    });
    let shop = Arc::clone(&app.shop);
    app.stop().await;
    // asked last: it may have been told to stop because of the successor that its last write met
    let superseded = shop.engine.journal().condition == Condition::Superseded;
    let end = if superseded { End::Superseded } else { end };
    if let (Some(beside), End::Told | End::Broken) = (beside, end) {
        beside.stop().await;
    }
    Ok(end)
}

/// Says what to open, and how to buy something.
async fn greet(config: &Config, app: &App) {
    let url = &config.http.public_url;
    println!("Souk serves at {url}");
    println!("  the API, to browse and try   {url}/docs/");
    println!("  products                     {url}/v1/products");
    if config.mode == Mode::Production {
        return;
    }
    if let Ok(token) = app::staff_token(config) {
        println!("  staff token                  {}", token.expose());
    }
    println!("  mail to buyers               http://{}/inbox", config.sandbox.listen);
    println!("  the sandbox's books          http://{}/_sandbox/books", config.sandbox.listen);
    let page = Which::Page { before: None, most: 20 };
    let found = products::find(&app.shop.pool, &app.shop.engine, &page).await.unwrap_or_default();
    let plenty = found.iter().flat_map(|product| &product.skus).max_by_key(|sku| sku.available);
    let Some(sku) = plenty.filter(|sku| sku.available > 0) else { return };
    let body = json!({
        "lines": [{ "sku_id": sku.sku_id, "quantity": 1 }], "email": "ann@example.com", "currency": "USD", "payment": "paypal",
        "shipping_address": { "name": "Ann Lee", "line1": "1 Main St", "city": "Springfield", "region": "IL",
            "postal_code": "62701", "country": "US" },
    });
    println!("Buy something, then open the approve_url of the answer:");
    println!(
        "  curl -s {url}/v1/checkouts -H 'Content-Type: application/json' -H \"Idempotency-Key: $(date +%s%N)\" -d '{body}'"
    );
}
