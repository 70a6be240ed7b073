//! `make bench`: one table. Each figure stands beside a baseline (what others do) and a limit (what the machine allows),
//! all measured in one run on the same Postgres with fsync on. Figures drift with the machine and with whoever else uses
//! it; the ratios, and the CPU time a piece costs, are what counts.
//!
//! `cargo bench --bench figures -- [part …] [seconds=8] [rows=1000000]`; without a part, all of them.

mod age;
mod baselines;
mod hot;
mod house;
mod http;
mod import;
mod load;
mod many;
mod overload;
mod paid;
mod recovery;
mod shop;
mod table;

use std::time::Duration;

use futures::future::LocalBoxFuture;

use house::House;
use table::Table;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What was asked for on the command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// How long each figure is measured.
    seconds: u64,
    /// Reservations of the part `age`.
    rows: u64,
}

impl Wanted {
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// A part of the table: it has a database of its own on the one server, so that no part ages another's tables.
type Part = for<'a> fn(&'a House, &'a Table, Wanted) -> LocalBoxFuture<'a, Outcome<()>>;

const PARTS: &[(&str, Part)] = &[
    ("hot", |house, table, wanted| Box::pin(hot::reservations(house, table, wanted))),
    ("checkouts", |house, table, wanted| Box::pin(hot::checkouts(house, table, wanted))),
    ("many", |house, table, wanted| Box::pin(many::run(house, table, wanted))),
    ("http", |house, table, wanted| Box::pin(http::checkouts(house, table, wanted))),
    ("sold_out", |house, table, wanted| Box::pin(http::sold_out(house, table, wanted))),
    ("paid", |house, table, wanted| Box::pin(paid::run(house, table, wanted))),
    ("import", |house, table, wanted| Box::pin(import::run(house, table, wanted))),
    ("overload", |house, table, wanted| Box::pin(overload::run(house, table, wanted))),
    ("recovery", |house, table, wanted| Box::pin(recovery::run(house, table, wanted))),
    ("age", |house, table, wanted| Box::pin(age::run(house, table, wanted))),
];

fn main() -> Outcome<()> {
    let mut wanted = Wanted { seconds: 8, rows: 1_000_000 };
    let mut parts = Vec::new();
    // cargo passes --bench and the like
    for word in std::env::args().skip(1).filter(|word| !word.starts_with('-')) {
        match word.split_once('=') {
            Some(("seconds", number)) => wanted.seconds = number.parse()?,
            Some(("rows", number)) => wanted.rows = number.parse()?,
            Some(_) => return Err(format!("{word}: seconds=… or rows=…").into()),
            None => parts.push(part(&word)?),
        }
    }
    if parts.is_empty() {
        parts.extend(PARTS);
    }
    tokio::runtime::Runtime::new()?.block_on(run(parts, wanted))
}

fn part(name: &str) -> Outcome<&'static (&'static str, Part)> {
    let names = || PARTS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    PARTS.iter().find(|(known, _)| *known == name).ok_or_else(|| format!("{name}: a part is one of {}", names()).into())
}

async fn run(parts: Vec<&(&'static str, Part)>, wanted: Wanted) -> Outcome<()> {
    let house = House::open().await?;
    let table = Table::begin(wanted);
    let mut measured = Ok(());
    for (name, part) in parts {
        measured = part(&house, &table, wanted).await.map_err(|error| format!("{name}: {error}").into());
        if measured.is_err() {
            break;
        }
    }
    house.close().await?;
    measured
}
