//! The database: any Postgres that a URL names, or the embedded one; created if missing, and migrated.

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    config::Database,
    postgres::{PostgresError, Server, Settings},
};

/// Every migration, compiled in.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// The embedded server's database.
const NAME: &str = "souk";

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// `database.url` is no URL of a Postgres; the URL itself may hold a password and is not shown.
    #[error("database.url cannot be read")]
    Url,
    /// The embedded Postgres.
    #[error(transparent)]
    Embedded(#[from] PostgresError),
    /// Whatever Postgres said.
    #[error("the database: {0}")]
    Sql(#[from] sqlx::Error),
    /// A migration that does not go through.
    #[error("migrating the database: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

/// A database, and the server if it is ours.
pub struct Opened {
    /// How to reach it.
    pub connect: PgConnectOptions,
    /// The embedded server.
    pub server: Option<Server>,
}

/// Reaches the database, starting the embedded server where no URL is given.
///
/// # Errors
/// [`DatabaseError`].
pub async fn open(database: &Database) -> Result<Opened, DatabaseError> {
    let url = database.url.expose();
    if !url.is_empty() {
        let connect = PgConnectOptions::from_str(url).map_err(|_| DatabaseError::Url)?;
        return Ok(Opened { connect, server: None });
    }
    let settings = Settings { data_dir: database.data_dir.clone(), durable: true, bin_dir: None };
    let server = Server::start(settings).await?;
    let connect = server.connect_options();
    create(&connect, NAME).await?;
    Ok(Opened { connect: connect.database(NAME), server: Some(server) })
}

async fn create(connect: &PgConnectOptions, name: &str) -> Result<(), sqlx::Error> {
    let mut conn = connect.connect().await?;
    let there: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(name)
        .fetch_one(&mut conn)
        .await?;
    if !there {
        // another process may be just as early
        let created = sqlx::query("create database souk").execute(&mut conn).await;
        let duplicate = |error: &sqlx::Error| {
            error.as_database_error().is_some_and(|e| e.code().is_some_and(|c| c == "42P04" || c == "23505"))
        };
        if let Err(error) = created
            && !duplicate(&error)
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Brings the schema up to date; a database that is, is left as it is.
///
/// # Errors
/// [`DatabaseError`].
pub async fn migrate(connect: &PgConnectOptions) -> Result<(), DatabaseError> {
    let mut conn = connect.connect().await?;
    MIGRATIONS.run(&mut conn).await?;
    Ok(())
}

/// The shop's pool. Its connections may read everything and write only the shop's own tables, where the database allows
/// roles: whatever a handler tries, stock, orders and money are the engine's.
///
/// # Errors
/// [`DatabaseError`].
pub async fn shop_pool(connect: &PgConnectOptions, connections: u32) -> Result<PgPool, DatabaseError> {
    let mut conn = connect.connect().await?;
    let fenced: bool = sqlx::query_scalar(
        "select exists (select from pg_roles where rolname = 'souk_shop' and pg_has_role(current_user, oid, 'member'))",
    )
    .fetch_one(&mut conn)
    .await?;
    if !fenced {
        tracing::warn!("there is no role souk_shop for us here: the shop's connections can write the engine's tables");
    }
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(2))
        .after_connect(move |conn, _| {
            Box::pin(async move {
                if fenced {
                    sqlx::query("set role souk_shop").execute(conn).await?;
                }
                Ok(())
            })
        })
        .connect_with(connect.clone().application_name("souk shop"))
        .await?;
    Ok(pool)
}
