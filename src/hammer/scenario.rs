//! A run from the empty shelf to the verdict.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::{
    diary::{self, Diary, Ending, Entry, Found, Opening},
    line::Target,
    load::{self, Buyer},
    report::Report,
    run::{
        ACCEPTED, ACCEPTED_AGAIN, LEFT_OUTSIDE, NOT_FOR_YOU, NOT_FOR_YOU_AGAIN, REFUSED, Run, SOLD_OUT, SOLD_OUT_AGAIN,
    },
    schedule::{Bounds, Pace, Schedule},
    staff::{Good, Staff, Trouble},
    verdict,
    visit::{Bank, Rush, Whole},
    wish::{Habits, Taste, Wishes},
};

/// How often somebody who watches is told how far it is.
const TELL: Duration = Duration::from_millis(500);
/// What a unit costs, in cents.
const PRICE: u64 = 1_250;
/// SKUs of one product; fewer where buyers look at products.
const EACH: usize = 1_000;
const EACH_SHOWN: usize = 5;

/// What is played.
#[derive(Debug, Clone)]
pub enum Scenario {
    /// Everybody wants the same SKU: this one, or one that is made with so much stock.
    FlashSale {
        /// One that the shop has.
        sku: Option<String>,
        /// Units of one that is made.
        stock: u64,
        /// Units that each buyer wants.
        quantity: u64,
    },
    /// Everybody wants one unit of one of many.
    Spread(Assortment),
    /// Baskets of codes, one after the other.
    Baskets {
        /// The baskets.
        baskets: Vec<Vec<String>>,
        /// Units of each code.
        stock: u64,
    },
    /// Whole visits.
    Mixed {
        /// What there is to buy.
        goods: Assortment,
        /// The sandbox, `http://…`.
        sandbox: String,
        /// What becomes of orders.
        habits: Habits,
    },
}

/// Many SKUs.
#[derive(Debug, Clone, Copy)]
pub struct Assortment {
    /// How many.
    pub skus: usize,
    /// Units of each.
    pub stock: u64,
    /// How much more the first ones are wanted.
    pub zipf: f64,
}

impl Scenario {
    fn name(&self) -> &'static str {
        match self {
            Self::FlashSale { .. } => "flash-sale",
            Self::Spread(_) => "spread",
            Self::Baskets { .. } => "baskets",
            Self::Mixed { .. } => "mixed",
        }
    }

    /// Whether its goods were there before, so that a sale's rules may hold for them.
    fn may_be_in_a_sale(&self) -> bool {
        matches!(self, Self::FlashSale { sku: Some(_), .. })
    }
}

/// How a scenario is played.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The shop, `http://…`
    pub url: String,
    /// The journal's file.
    pub journal: PathBuf,
    /// Buyers at once.
    pub connections: usize,
    /// How buyers come.
    pub pace: Pace,
    /// Until when.
    pub bounds: Bounds,
    /// How long a buyer waits for an answer.
    pub patience: Duration,
    /// The same seed brings the same buyers.
    pub seed: u64,
    /// A word that no other run has.
    pub run: String,
}

/// Plays a scenario until its end, or until `stop` becomes true, and judges.
///
/// # Errors
/// The shop cannot be prepared, or the journal not be written.
pub async fn hammer(
    plan: &Plan,
    scenario: &Scenario,
    staff: &Staff,
    stop: watch::Receiver<bool>,
) -> Result<Report, Trouble> {
    let target = Target::of(&plan.url).await?;
    staff.knock().await?;
    let diary = Diary::open(&plan.journal).map_err(|error| format!("{}: {error}", plan.journal.display()))?;
    let (taste, found) = stock_up(plan, scenario, staff).await?;
    let opening = Opening { run: plan.run.clone(), newest_order: staff.newest_order().await? };
    let entries: Vec<Entry> = std::iter::once(Entry::Run(opening)).chain(found.into_iter().map(Entry::Sku)).collect();
    diary.write(&entries)?;

    let wishes = Wishes::new(&target, &plan.run, plan.seed, taste);
    let run = Run::new(target, plan.patience, wishes, scenario.may_be_in_a_sale(), diary);
    let schedule = Arc::new(Schedule::new(plan.pace, plan.bounds, plan.seed));
    let stopping = tokio::spawn(pass_on(stop, Arc::clone(&run), Arc::clone(&schedule)));
    let took = match scenario {
        Scenario::FlashSale { .. } | Scenario::Spread(_) | Scenario::Baskets { .. } => {
            load(&run, &schedule, crowd(plan, || Rush::new(Arc::clone(&run)))).await
        }
        Scenario::Mixed { sandbox, habits, .. } => {
            let bank = Bank { url: sandbox.clone(), target: Target::of(sandbox).await? };
            load(&run, &schedule, crowd(plan, || Whole::new(Arc::clone(&run), bank.clone(), *habits))).await
        }
    };
    stopping.abort();
    let left_outside = schedule.left_outside(|wait| run.tally.note_took(LEFT_OUTSIDE, wait));
    say("those without an answer ask again …");
    run.ask_again().await;
    end(&run)?;
    say("every word is checked …");
    let verdict = verdict::judge(staff, &diary::read(&plan.journal)?).await;
    let of = |kinds: [&'static str; 2]| kinds.iter().map(|kind| run.tally.count(kind)).sum::<u64>();
    Ok(Report {
        scenario: scenario.name(),
        run: plan.run.clone(),
        seed: plan.seed,
        journal: plan.journal.display().to_string(),
        seconds: took.as_secs_f64(),
        buyers: schedule.begun(),
        left_outside,
        accepted: of([ACCEPTED, ACCEPTED_AGAIN]),
        sold_out: of([SOLD_OUT, SOLD_OUT_AGAIN]),
        not_for_you: of([NOT_FOR_YOU, NOT_FOR_YOU_AGAIN]),
        refused: run.tally.count(REFUSED),
        wrong: run.wrong().values().sum(),
        unanswered: run.unanswered(),
        answers: run.tally.figures(took),
        errors: run.tally.errors(),
        verdict,
    })
}

fn crowd<B: Buyer>(plan: &Plan, buyer: impl FnMut() -> B) -> Vec<B> {
    std::iter::repeat_with(buyer).take(plan.connections).collect()
}

/// Ends the load when somebody outside says so, or the run itself does.
async fn pass_on(mut stop: watch::Receiver<bool>, run: Arc<Run>, schedule: Arc<Schedule>) {
    let mut own = run.stop.subscribe();
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        _ = own.wait_for(|stop| *stop) => {}
    }
    schedule.stop();
    run.stop.send_replace(true);
}

async fn load<B: Buyer>(run: &Arc<Run>, schedule: &Arc<Schedule>, crowd: Vec<B>) -> Duration {
    let telling = io::stderr().is_terminal().then(|| tokio::spawn(tell(Arc::clone(run))));
    let took = load::drive(Arc::clone(schedule), crowd, run.stop.subscribe()).await;
    if let Some(telling) = telling {
        telling.abort();
        eprintln!();
    }
    took
}

/// To somebody who watches.
fn say(what: &str) {
    if io::stderr().is_terminal() {
        eprintln!("{what}");
    }
}

/// One line that is written over and over.
async fn tell(run: Arc<Run>) {
    let mut before = 0;
    loop {
        tokio::time::sleep(TELL).await;
        let [accepted, sold_out, refused] = [ACCEPTED, SOLD_OUT, REFUSED].map(|kind| run.tally.count(kind));
        let rate = (accepted + sold_out - before) as f64 / TELL.as_secs_f64();
        before = accepted + sold_out;
        let wrong: u64 = run.tally.errors().values().sum();
        let since = run.tally.since().as_secs_f64();
        eprint!(
            "\r{since:6.1} s  {rate:8.0}/s  accepted {accepted}  sold out {sold_out}  refused {refused}  errors {wrong}   "
        );
        io::stderr().flush().ok();
    }
}

fn end(run: &Run) -> Result<(), Trouble> {
    let of = |kinds: [&'static str; 2]| kinds.iter().map(|kind| run.tally.count(kind)).sum::<u64>();
    let ending = Ending { sold_out: of([SOLD_OUT, SOLD_OUT_AGAIN]), unanswered: run.unanswered(), wrong: run.wrong() };
    run.note(Entry::End(ending));
    run.failure().map_or(Ok(()), |failure| Err(failure.into()))
}

/// Fills the shelves that the scenario needs, and writes down what is on them.
async fn stock_up(plan: &Plan, scenario: &Scenario, staff: &Staff) -> Result<(Taste, Vec<Found>), Trouble> {
    let (taste, skus) = match scenario {
        Scenario::FlashSale { sku: Some(sku_id), quantity, .. } => {
            (Taste::One((sku_id.clone(), *quantity)), vec![sku_id.clone()])
        }
        Scenario::FlashSale { sku: None, stock, quantity } => {
            let skus = put(plan, staff, 1, *stock, EACH).await?;
            (Taste::One((skus[0].clone(), *quantity)), skus)
        }
        Scenario::Spread(goods) | Scenario::Mixed { goods, .. } => {
            let each = if matches!(scenario, Scenario::Mixed { .. }) { EACH_SHOWN } else { EACH };
            let skus = put(plan, staff, goods.skus, goods.stock, each).await?;
            (Taste::zipf(skus.clone(), goods.zipf), skus)
        }
        Scenario::Baskets { baskets, stock } => shelve(plan, staff, baskets, *stock).await?,
    };
    let mut found = Vec::with_capacity(skus.len());
    for sku_id in skus {
        let (stock, row) = staff.stock(&sku_id).await?;
        found.push(Found { sku_id, on_hand: stock.on_hand, reserved: stock.reserved, row });
    }
    Ok((taste, found))
}

async fn put(plan: &Plan, staff: &Staff, skus: usize, stock: u64, each: usize) -> Result<Vec<String>, Trouble> {
    let good = |at: usize| Good { code: format!("HAMMER-{}-{at}", plan.run), price: PRICE, on_hand: stock };
    let goods: Vec<Good> = (1..=skus).map(good).collect();
    staff.put_on_sale(&format!("Hammer {}", plan.run), &goods, each).await
}

/// A SKU for every code of the baskets, each code as often as it stands there.
async fn shelve(
    plan: &Plan,
    staff: &Staff,
    baskets: &[Vec<String>],
    stock: u64,
) -> Result<(Taste, Vec<String>), Trouble> {
    let mut codes: BTreeMap<&str, usize> = baskets.iter().flatten().map(|code| (code.as_str(), 0)).collect();
    codes.values_mut().enumerate().for_each(|(at, place)| *place = at);
    let skus = put(plan, staff, codes.len(), stock, EACH).await?;
    let fill = |basket: &Vec<String>| {
        let mut units: BTreeMap<&str, u64> = BTreeMap::new();
        basket.iter().for_each(|code| *units.entry(code).or_default() += 1);
        units.into_iter().map(|(code, units)| (skus[codes[code]].clone(), units)).collect()
    };
    let taste = Taste::Baskets(baskets.iter().map(fill).collect());
    Ok((taste, skus))
}
