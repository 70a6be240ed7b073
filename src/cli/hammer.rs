//! `souk hammer`: load for a running shop, and whether it has kept its word.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use tokio::sync::watch;

use super::{Failure, sandbox::Signals};
use crate::{
    app,
    config::Config,
    hammer::{
        self, Assortment, Plan, Scenario, diary,
        schedule::{Bounds, Pace},
        staff::Staff,
        verdict,
        wish::Habits,
    },
};

/// How long buyers come where neither their number nor a time is given.
const SECONDS: f64 = 10.0;
/// Lines of a checkout, at most.
const BASKET: usize = 1_000;

#[derive(Subcommand)]
pub(super) enum What {
    /// Everybody wants one SKU, at once; some get it, the rest hear that it is sold out.
    ///
    /// Makes a product with --stock units and sends --buyers, who each want --quantity. When more is wanted than there is,
    /// the verdict asks for an exact sell-out.
    FlashSale {
        /// A SKU of the shop's instead of a new one; nobody else should be selling it meanwhile.
        #[arg(long, value_name = "SKU_ID")]
        sku: Option<String>,
        /// Units of the new SKU.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
        stock: u64,
        /// Units that each buyer wants.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        quantity: u64,
        #[command(flatten)]
        load: Load,
    },
    /// Everybody wants a unit of one of many SKUs.
    Spread {
        #[command(flatten)]
        goods: Goods,
        #[command(flatten)]
        load: Load,
    },
    /// Baskets as real buyers filled them, one after the other and over again.
    ///
    /// There is no cart in the shop yet: a basket is one checkout of many lines.
    Baskets {
        /// A basket a line: codes, separated by commas; a code may stand there twice. A SKU is made for each code.
        file: PathBuf,
        /// Units of each SKU.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
        stock: u64,
        #[command(flatten)]
        load: Load,
    },
    /// Whole visits: looking around, a checkout, the payment at the sandbox up to the confirmation; some call off, some never
    /// come back.
    ///
    /// There is no cart in the shop yet: buyers check out what they want. Payments are approved at the sandbox, as its page
    /// would; webhooks and captures then come by themselves. A connection serves one visit at a time, payment included.
    Mixed {
        #[command(flatten)]
        goods: Goods,
        /// Of a hundred orders so many are paid.
        #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u8).range(..=100))]
        pay: u8,
        /// Of a hundred orders so many are called off; the rest is left unpaid, and expires in its time.
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u8).range(..=100))]
        cancel: u8,
        /// The sandbox's address; of this machine's where it is not given.
        #[arg(long, value_name = "URL")]
        sandbox_url: Option<String>,
        #[command(flatten)]
        load: Load,
    },
    /// Judge a journal of earlier runs once more, without any load.
    Check {
        /// The journal.
        journal: PathBuf,
        #[command(flatten)]
        shop: Shop,
    },
}

/// What there is to buy.
#[derive(Args)]
pub(super) struct Goods {
    /// How many SKUs are made.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    skus: u32,
    /// Units of each.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
    stock: u64,
    /// The n-th SKU is wanted 1/n^EXPONENT times as often as the first: 0 is all alike, 1 what shops see.
    #[arg(long, default_value_t = 0.0, value_name = "EXPONENT", value_parser = positive_or_zero)]
    zipf: f64,
}

/// Which shop, and how the answer is printed.
#[derive(Args)]
pub(super) struct Shop {
    /// The shop's address; of this machine's shop where it is not given. Plain http.
    #[arg(long)]
    url: Option<String>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// How buyers come.
#[derive(Args)]
#[command(next_help_heading = "Load")]
pub(super) struct Load {
    /// How many buyers come; 10 000 to a flash sale where neither this nor --seconds is given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    buyers: Option<u64>,
    /// For how long they come; 10 seconds where neither this nor --buyers is given.
    #[arg(long, value_parser = positive)]
    seconds: Option<f64>,
    /// Buyers at once, each with a connection of its own.
    #[arg(long, short, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// An open loop: so many buyers a second come, whether the shop keeps up or not, and latencies count from when each
    /// should have begun. Without it the loop is closed: the next buyer begins when a connection is free. From 0.01 to
    /// 1000000.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// How buyers of an open loop are spread.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson, requires = "rate")]
    arrivals: Arrivals,
    /// How long a buyer waits for an answer; who got none asks again at the end, with the same key.
    #[arg(long, default_value_t = 15.0, value_name = "SECONDS", value_parser = positive)]
    timeout: f64,
    /// The same seed brings the same buyers and arrivals.
    #[arg(long)]
    seed: Option<u64>,
    /// The file that acknowledgements are added to, before they are counted; what is in it from earlier runs is judged as
    /// well. A new one in the directory of temporary files where it is not given. It holds what opens the orders.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    shop: Shop,
}

#[derive(Clone, Copy, ValueEnum)]
enum Arrivals {
    /// In equal steps.
    Fixed,
    /// Each independent of the others.
    Poisson,
}

/// Beyond these the next buyer would come in years, or faster than they can be counted.
fn rate(text: &str) -> Result<f64, String> {
    number(text)
        .filter(|rate| (0.01..=1e6).contains(rate))
        .ok_or_else(|| "is no number from 0.01 to 1000000".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    number(text).filter(|number| *number > 0.0).ok_or_else(|| "is no number above zero".to_owned())
}

fn positive_or_zero(text: &str) -> Result<f64, String> {
    number(text).filter(|number| *number >= 0.0).ok_or_else(|| "is no number from zero".to_owned())
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| *number < 1e9)
}

pub(super) async fn run(config: Config, what: What) -> Result<ExitCode, Failure> {
    let (scenario, load) = match what {
        What::Check { journal, shop } => return check(&config, &journal, &shop).await,
        What::FlashSale { sku, stock, quantity, load } => (Scenario::FlashSale { sku, stock, quantity }, load),
        What::Spread { goods, load } => (Scenario::Spread(goods.into()), load),
        What::Baskets { file, stock, load } => (Scenario::Baskets { baskets: read(&file)?, stock }, load),
        What::Mixed { goods, pay, cancel, sandbox_url, load } => {
            let sandbox = sandbox_url.unwrap_or_else(|| format!("http://{}", config.sandbox.listen));
            let habits = Habits { paid: pay, called_off: cancel };
            (Scenario::Mixed { goods: goods.into(), sandbox: sandbox.trim_end_matches('/').to_owned(), habits }, load)
        }
    };
    let plan = plan(&config, &scenario, &load);
    let staff = staff(&config, &load.shop)?;
    let report = hammer::hammer(&plan, &scenario, &staff, told_to_stop()?).await?;
    if load.shop.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(if report.verdict.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check(config: &Config, journal: &Path, shop: &Shop) -> Result<ExitCode, Failure> {
    let chapters = diary::read(journal)?;
    let staff = staff(config, shop)?;
    staff.knock().await?;
    let verdict = verdict::judge(&staff, &chapters).await;
    if shop.json {
        println!("{}", serde_json::to_string(&verdict)?);
    } else {
        println!("{verdict}");
    }
    Ok(if verdict.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn url(config: &Config, shop: &Shop) -> String {
    let url = shop.url.clone().unwrap_or_else(|| format!("http://{}", config.http.listen));
    url.trim_end_matches('/').to_owned()
}

fn staff(config: &Config, shop: &Shop) -> Result<Staff, Failure> {
    Staff::new(&url(config, shop), app::staff_token(config)?)
}

fn plan(config: &Config, scenario: &Scenario, load: &Load) -> Plan {
    let run = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
    let bounds = match (load.buyers, load.seconds, scenario) {
        (None, None, Scenario::FlashSale { .. }) => Bounds { buyers: Some(10_000), time: None },
        (None, None, _) => Bounds { buyers: None, time: Some(Duration::from_secs_f64(SECONDS)) },
        (buyers, seconds, _) => Bounds { buyers, time: seconds.map(Duration::from_secs_f64) },
    };
    let pace = match (load.rate, load.arrivals) {
        (None, _) => Pace::Closed,
        (Some(rate), Arrivals::Fixed) => Pace::Fixed(rate),
        (Some(rate), Arrivals::Poisson) => Pace::Poisson(rate),
    };
    let journal = || std::env::temp_dir().join(format!("souk-hammer-{run}.jsonl"));
    Plan {
        url: url(config, &load.shop),
        journal: load.journal.clone().unwrap_or_else(journal),
        connections: load.connections as usize,
        pace,
        bounds,
        patience: Duration::from_secs_f64(load.timeout),
        seed: load.seed.unwrap_or_else(|| fastrand::u64(..)),
        run,
    }
}

/// Becomes true at the first Ctrl-C: the load ends, and the table comes. At the second this process ends.
fn told_to_stop() -> io::Result<watch::Receiver<bool>> {
    let mut signals = Signals::listen()?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        signals.next().await;
        eprintln!("\nending the load; once more ends without a verdict");
        stop.send_replace(true);
        std::process::exit(signals.next().await)
    });
    Ok(stopped)
}

fn read(file: &Path) -> Result<Vec<Vec<String>>, Failure> {
    let at = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    let text = fs::read_to_string(file).map_err(|error| at(&error))?;
    let codes =
        |line: &str| line.split(',').map(str::trim).filter(|code| !code.is_empty()).map(str::to_owned).collect();
    let baskets: Vec<Vec<String>> = text.lines().map(codes).filter(|basket: &Vec<String>| !basket.is_empty()).collect();
    if baskets.is_empty() {
        return Err(at(&"there is no basket in it").into());
    }
    if baskets.iter().any(|basket| basket.len() > BASKET) {
        return Err(at(&format!("a basket holds {BASKET} codes at most")).into());
    }
    Ok(baskets)
}

impl From<Goods> for Assortment {
    fn from(Goods { skus, stock, zipf }: Goods) -> Self {
        Self { skus: skus as usize, stock, zipf }
    }
}
