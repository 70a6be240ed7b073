//! Random histories: many orders side by side in one shop, each walked through whatever buyers, staff, the bank, the carrier
//! and broken lines may do to it. What a walk does is only noted; what must hold is so simple that it cannot be wrong.
//!
//! `SOUK_HISTORIES=1000` walks so many, `SOUK_SEED=…` with other dice.

mod ends;
mod walk;
mod world;

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use serde_json::{Value, json};

use self::{
    ends::{dead_letters, finds_wrong, told},
    walk::Walk,
    world::{all_is_done, time_passes, trouble},
};
use crate::support::shop::{HASTY, Placed, TestShop, dollars};

/// Histories that go on side by side.
const AT_ONCE: usize = 32;
/// Histories in a run that was not told otherwise: as many as fit beside all the other stories.
const USUAL: usize = 60;
/// Its dice.
const USUAL_SEED: u64 = 2_026;
/// How far the shop's clock moves after each round, in seconds.
const ROUNDS: [i64; 6] = [40, 300, 950, 3 * 3_600, 26 * 3_600, 80 * 3_600];
/// What every unit costs, in cents.
const PRICE: i64 = 1_250;
/// What each SKU begins with, and the one that runs out.
const PLENTY: i64 = 100_000;

/// The same numbers for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let below = u64::try_from(below).expect("small");
        usize::try_from((mixed ^ (mixed >> 31)) % below).expect("small")
    }

    fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.roll(among.len())]
    }

    fn units(&mut self, most: i64) -> i64 {
        1 + i64::try_from(self.roll(usize::try_from(most.max(1)).expect("small"))).expect("small")
    }

    /// So many times in a hundred.
    fn hits(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Pay,
    Approve,
    ComeBack,
    BuyerCancels,
    StaffCancel,
    CallOff,
    Refund,
    AskTooMuch,
    GiveBackAtBank,
    Dispute,
    Resolve,
    Reverse,
    Restore,
    Lapse,
    Decide,
    Hold,
    Release,
    PackByHand,
    PackWithLabel,
    Ship,
    Deliver,
    Void,
    Scan,
    AskReturn,
    GoOnWithReturn,
}

/// What there is to do with an order that is not paid.
const UNPAID: [Act; 10] = [
    Act::Pay,
    Act::Approve,
    Act::Approve,
    Act::Approve,
    Act::Approve,
    Act::ComeBack,
    Act::Decide,
    Act::BuyerCancels,
    Act::StaffCancel,
    Act::Hold,
];
/// And with one that is.
const PAID: [Act; 29] = [
    Act::StaffCancel,
    Act::CallOff,
    Act::Refund,
    Act::Refund,
    Act::AskTooMuch,
    Act::GiveBackAtBank,
    Act::Dispute,
    Act::Resolve,
    Act::Resolve,
    Act::Reverse,
    Act::Restore,
    Act::Decide,
    Act::Lapse,
    Act::Hold,
    Act::Release,
    Act::Release,
    Act::PackByHand,
    Act::PackByHand,
    Act::PackWithLabel,
    Act::PackWithLabel,
    Act::Ship,
    Act::Ship,
    Act::Deliver,
    Act::Void,
    Act::Scan,
    Act::Scan,
    Act::AskReturn,
    Act::GoOnWithReturn,
    Act::GoOnWithReturn,
];
/// Anything, at any time: most of it must be refused.
const ANYTHING: [Act; 12] = [
    Act::Pay,
    Act::Approve,
    Act::ComeBack,
    Act::BuyerCancels,
    Act::StaffCancel,
    Act::Refund,
    Act::Ship,
    Act::PackByHand,
    Act::AskReturn,
    Act::GoOnWithReturn,
    Act::Release,
    Act::Decide,
];

/// How orders end, and how many of them.
type Ends = BTreeMap<String, usize>;

/// One order's history, and what is known of it without asking the shop.
struct History {
    dice: Dice,
    /// SKU and quantity, a line each.
    lines: Vec<(String, i64)>,
    placed: Option<Placed>,
    /// The provider's ids of its orders, one an attempt.
    attempts: Vec<String>,
    /// Units of each line that staff called off, and the shop agreed.
    called_off: Vec<i64>,
    /// The status that was seen last.
    status: String,
    diary: Vec<String>,
}

impl History {
    fn new(seed: u64, number: usize) -> Self {
        Self {
            dice: Dice(seed ^ (u64::try_from(number).expect("small") << 32)),
            lines: Vec::new(),
            placed: None,
            attempts: Vec::new(),
            called_off: Vec::new(),
            status: "awaiting_payment".to_owned(),
            diary: Vec::new(),
        }
    }

    fn total(&self) -> i64 {
        self.lines.iter().map(|(_, quantity)| quantity * PRICE).sum()
    }

    fn placed(&self) -> &Placed {
        self.placed.as_ref().expect("it was placed")
    }

    #[track_caller]
    fn must(&self, holds: bool, sentence: &str) {
        assert!(holds, "{sentence}\nthe history of {:?}:\n{}", self.placed, self.diary.join("\n"));
    }

    /// What was seen of the order may follow what was seen before.
    fn sees(&mut self, order: &Value) {
        let now = text(order, "status");
        let goes_on = match self.status.as_str() {
            "cancelled" | "completed" => now == self.status,
            "confirmed" | "cancelling" => now != "awaiting_payment" && now != "expired",
            _ => true,
        };
        self.must(goes_on, &format!("from {} it became {now}", self.status));
        self.status = now.to_owned();
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn minor(amount: &Value) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "cents of a small order")]
    let minor = (dollars(amount) * 100.0).round() as i64;
    minor
}

fn usd(minor: i64) -> Value {
    json!({ "amount": format!("{}.{:02}", minor / 100, minor % 100), "currency": "USD" })
}

fn cents(price: &Value) -> i64 {
    minor(&json!({ "value": price["amount"] }))
}

/// Units of a line that have left.
fn gone_of(shipments: &[Value], line: usize) -> i64 {
    let left = shipments.iter().filter(|shipment| shipment["left_at"].is_string());
    let packed = left.flat_map(|shipment| list(shipment, "lines"));
    packed.filter(|packed| packed["line"] == line).filter_map(|packed| packed["quantity"].as_i64()).sum()
}

/// What is on sale: what each SKU began with, plenty or little.
struct Shelf {
    openings: Vec<(String, i64)>,
}

impl Shelf {
    async fn filled(shop: &TestShop, histories: usize) -> Self {
        let mut openings = Vec::new();
        for _ in 0..6 {
            openings.push((shop.sku(PLENTY).await, PLENTY));
        }
        let few = i64::try_from(histories / 10).expect("small");
        openings.push((shop.sku(few).await, few));
        Self { openings }
    }

    /// The one that runs out.
    fn scarce(&self) -> &str {
        &self.openings[self.openings.len() - 1].0
    }

    fn plenty(&self) -> &[(String, i64)] {
        &self.openings[..self.openings.len() - 1]
    }
}

/// So many histories, from an empty shop to clean books. `intent` says when money is taken.
async fn histories(intent: &str, count: usize, seed: u64) {
    println!("SOUK_HISTORIES={count} SOUK_SEED={seed}, {intent}");
    let shop = TestShop::with(&[HASTY, ("SOUK_SHIPPO__TIMEOUT_SECONDS", "5"), ("SOUK_CHECKOUT__INTENT", intent)]).await;
    let told_to = format!("{}/v1/webhooks/shippo?token=souk", shop.base);
    shop.bank.control("shippo/settings", json!({ "webhook_url": told_to })).await;
    let shelf = Shelf::filled(&shop, count).await;
    let mut dice = Dice(seed);
    let mut histories: Vec<History> = (1..=count).map(|number| History::new(seed, number)).collect();
    for seconds in ROUNDS {
        trouble(&shop, &mut dice, count).await;
        let walks = histories.iter_mut().map(|history| round(Walk { shop: &shop, shelf: &shelf, history }));
        stream::iter(walks).for_each_concurrent(AT_ONCE, |walk| walk).await;
        time_passes(&shop, seconds).await;
    }
    let mut wrong = all_is_done(&shop, &mut dice).await;
    wrong.extend(finds_wrong(&shop, &shelf, &mut histories).await);
    wrong.extend(dead_letters(&shop).await);
    told(&shop, &histories, &wrong).await;
    assert!(wrong.is_empty(), "SOUK_HISTORIES={count} SOUK_SEED={seed}, {intent}:\n{}", wrong.join("\n"));

    let mut ends = Ends::new();
    for history in &histories {
        let order = shop.order(history.placed()).await;
        let sides = ["status", "payment_status", "fulfilment_status"].map(|side| text(&order, side).to_owned());
        *ends.entry(sides.join(" ")).or_default() += 1;
    }
    println!("{intent}: orders that are {ends:#?}");
    shop.app.stop().await;
}

async fn round(mut walk: Walk<'_>) {
    walk.place().await;
    for _ in 0..2 + walk.history.dice.roll(4) {
        walk.step().await;
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Half of all histories: the other half is told with the other intent.
async fn half(intent: &str) {
    let count = variable("SOUK_HISTORIES").map_or(USUAL, |count| usize::try_from(count).expect("not so many"));
    histories(intent, count.div_ceil(2), variable("SOUK_SEED").unwrap_or(USUAL_SEED)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_stock_money_and_orders_agree() {
    half("capture").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_reserved_money_stock_and_orders_agree_with_it() {
    half("authorise").await;
}
