//! What must hold at the end: no order waits for a person; stock, the bank's books, the carrier's books and the order tell the
//! same story.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use serde_json::Value;
use souk_actors::domain::OrderId;

use super::{History, PRICE, Shelf, list, minor, text, walk::Walk};
use crate::support::shop::{TestShop, books_differ};

/// Everything that is wrong, a sentence each; one that is about an order names it.
pub(super) async fn finds_wrong(shop: &TestShop, shelf: &Shelf, histories: &mut [History]) -> Vec<String> {
    let mut wrong = audit_finds(shop).await;
    wrong.extend(books_differ(shop).await);
    let mut gone: HashMap<String, i64> = HashMap::new();
    for history in histories {
        let mut end = End::of(Walk { shop, shelf, history }).await;
        end.is_decided();
        end.money_fits();
        for (sku_id, net) in end.net_gone() {
            *gone.entry(sku_id).or_default() += net;
        }
        wrong.extend(end.wrong);
    }
    wrong.extend(stock_differs(shop, shelf, &gone).await);
    wrong.extend(labels_twice(shop).await);
    wrong
}

/// What the audit finds that does not soon pass.
async fn audit_finds(shop: &TestShop) -> Vec<String> {
    let mut audit = shop.see("/v1/ops/audit").await.ok();
    let patience = Instant::now() + Duration::from_secs(20);
    while audit["clean"] != true && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(100)).await;
        audit = shop.see("/v1/ops/audit").await.ok();
    }
    let found = |finding: &Value| -> Vec<String> {
        list(finding, "rows").iter().map(|row| format!("{}: {row}", text(finding, "check"))).collect()
    };
    list(&audit, "findings").iter().flat_map(found).collect()
}

/// One order at its end, as shop, bank and carrier show it.
struct End {
    order: Value,
    shipments: Vec<Value>,
    returns: Vec<Value>,
    /// Units that were given back to the stock after the order had been confirmed.
    released: i64,
    money: Money,
    sold: Sold,
    wrong: Vec<String>,
}

/// The bank's books of an order, in cents.
#[derive(Debug, Default)]
struct Money {
    /// Open of what is reserved.
    reserved: i64,
    /// Taken, before anything went back.
    taken: i64,
    /// Taken back by the bank, or lost in disputes.
    reversed: i64,
    /// Given back at the bank's own pages.
    by_hand: i64,
    kept: i64,
}

/// What was sold, and what staff called off of it.
struct Sold {
    lines: Vec<(String, i64)>,
    called_off: Vec<i64>,
}

impl Sold {
    fn total(&self) -> i64 {
        self.lines.iter().map(|(_, quantity)| quantity * PRICE).sum()
    }
}

impl End {
    async fn of(mut walk: Walk<'_>) -> Self {
        let order = walk.look().await;
        let order_id: OrderId = text(&order, "order_id").parse().expect("an id");
        let released =
            "select coalesce(sum(quantity), 0)::bigint from reservation where order_id = $1 and state = 'released'";
        let mut conn = walk.shop.db.conn().await;
        let released = sqlx::query_scalar(released).bind(order_id).fetch_one(&mut conn).await.expect("a question");
        Self {
            shipments: walk.shipments().await,
            returns: walk.returns().await,
            released,
            money: Money::of(&walk, &order).await,
            sold: Sold { lines: walk.history.lines.clone(), called_off: walk.history.called_off.clone() },
            wrong: Vec::new(),
            order,
        }
    }

    fn must(&mut self, holds: bool, sentence: &str) {
        if !holds {
            self.wrong.push(format!("{}: {sentence}", text(&self.order, "order_id")));
        }
    }

    fn is_decided(&mut self) {
        let status = text(&self.order, "status").to_owned();
        let over = ["confirmed", "completed", "cancelled", "expired"].contains(&status.as_str());
        self.must(over, &format!("it waits for somebody, {status}"));
        let undecided = |parcel: &&Value| ["purchasing", "voiding"].contains(&text(parcel, "status"));
        let undecided: Vec<String> = self.shipments.iter().filter(undecided).map(Value::to_string).collect();
        self.must(undecided.is_empty(), &format!("a label is never decided: {undecided:?}"));
    }

    /// What is kept is no more than the order costs, nothing where it is over, and else no less than what came, without what
    /// was called off, given back or taken back.
    fn money_fits(&mut self) {
        let status = text(&self.order, "status").to_owned();
        let (total, money) = (self.sold.total(), format!("{:?}, it is {status}", self.money));
        let (kept, reserved) = (self.money.kept, self.money.reserved);
        self.must(kept <= total, &format!("more was kept than {total}: {money}"));
        if ["cancelled", "expired"].contains(&status.as_str()) {
            self.must(kept <= 0 && reserved == 0, &format!("it has no claim to anything: {money}"));
            return;
        }
        let wished = |refund: &&Value| {
            text(refund, "status") == "completed"
                && ["full", "amount", "lines", "shipping", "goodwill"].contains(&text(refund, "kind"))
        };
        let wished: i64 =
            list(&self.order, "refunds").iter().filter(wished).map(|own| super::cents(&own["amount"])).sum();
        let earned = self.money.taken.min(total - self.released * PRICE);
        let least = earned - wished - self.money.by_hand - self.money.reversed;
        self.must(kept >= least, &format!("{least} should be here at least, {wished} were asked for: {money}"));
    }

    /// What left of each SKU and did not come back.
    fn net_gone(&mut self) -> HashMap<String, i64> {
        let mut net = HashMap::new();
        for (line, (sku_id, bought)) in self.sold.lines.clone().into_iter().enumerate() {
            let gone = super::gone_of(&self.shipments, line);
            let called_off = self.sold.called_off[line];
            self.must(gone + called_off <= bought, "more left than was bought and not called off");
            let lines = self.returns.iter().flat_map(|goods| list(goods, "lines"));
            let back: i64 =
                lines.filter(|back| back["line"] == line).filter_map(|back| back["restocked"].as_i64()).sum();
            self.must(back <= gone, "more came back than left");
            *net.entry(sku_id).or_default() += gone - back;
        }
        net
    }
}

impl Money {
    async fn of(walk: &Walk<'_>, order: &Value) -> Self {
        let mut money = Self::default();
        for payment in list(order, "payments") {
            let about = format!("books/summary?custom_id={}", text(payment, "payment_id"));
            let purse = walk.shop.bank.read(&about).await;
            let of = |name: &str| purse[name]["USD"].as_i64().unwrap_or(0);
            money.reserved += of("authorized");
            money.taken += of("captured");
            money.reversed += of("reversed");
            money.kept += of("kept");
        }
        let by_hand = |refund: &&Value| {
            text(refund, "kind") == "refund" && text(refund, "status") == "COMPLETED" && refund["request_id"].is_null()
        };
        let refunds = walk.at_bank("refunds").await;
        money.by_hand = refunds.iter().filter(by_hand).map(|refund| minor(&refund["amount"])).sum();
        money
    }
}

async fn stock_differs(shop: &TestShop, shelf: &Shelf, gone: &HashMap<String, i64>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (sku_id, opening) in &shelf.openings {
        let (on_hand, reserved) = shop.stock(sku_id).await;
        let wanted = opening - gone.get(sku_id).unwrap_or(&0);
        if on_hand != wanted {
            wrong.push(format!("of {sku_id} there are {on_hand}, not {wanted}"));
        }
        let rows = shop.ledger(sku_id).await;
        let moves: i64 = rows.iter().filter_map(|row| row["d_reserved"].as_i64()).sum();
        if reserved != moves {
            wrong.push(format!("of {sku_id} {reserved} are reserved, and {moves} in the ledger"));
        }
    }
    wrong
}

/// At most one label of a shipment costs money, by the carrier's books.
async fn labels_twice(shop: &TestShop) -> Vec<String> {
    let parcels = shop.bank.read("shippo/transactions").await;
    let mut live: BTreeMap<&str, usize> = BTreeMap::new();
    for label in list(&parcels, "transactions") {
        if ["SUCCESS", "QUEUED", "WAITING"].contains(&text(label, "status")) {
            *live.entry(text(label, "metadata")).or_default() += 1;
        }
    }
    let twice = live.into_iter().filter(|(_, labels)| *labels > 1);
    twice.map(|(shipment, labels)| format!("{labels} labels of {shipment} cost money")).collect()
}

pub(super) async fn dead_letters(shop: &TestShop) -> Vec<String> {
    let dead = shop.count("select count(*) from outbox where state = 'dead'").await;
    (dead > 0).then(|| format!("{dead} letters are dead")).into_iter().collect()
}

/// Tells the histories of the orders that something is wrong with.
pub(super) async fn told(shop: &TestShop, histories: &[History], wrong: &[String]) {
    for history in histories {
        let placed = history.placed();
        let own: Vec<&String> = wrong.iter().filter(|sentence| names(sentence, &placed.order_id)).collect();
        if own.is_empty() {
            continue;
        }
        println!("── {own:#?}\n{}", history.diary.join("\n"));
        let path = format!("/v1/orders/{}/events", placed.order_id);
        for event in list(&shop.see(&path).await.ok(), "events") {
            println!("    {event}");
        }
    }
}

/// The audit names an order by its number.
fn names(sentence: &str, order_id: &str) -> bool {
    let number: OrderId = order_id.parse().expect("an id");
    let mut numbers = sentence.split(|letter: char| !letter.is_ascii_digit());
    sentence.contains(order_id) || numbers.any(|word| word == number.0.to_string())
}
