//! Random histories: many orders side by side in one shop, each walked through whatever buyers, staff, the bank, the carrier
//! and broken lines may do to it. What a walk does is only noted; what must hold is so simple that it cannot be wrong.
//!
//! `SOUK_HISTORIES=1000` walks so many, `SOUK_SEED=…` the same dice again.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use souk_actors::domain::OrderId;

use crate::support::{
    eventually,
    shop::{Answer, Placed, STAFF, TestShop, basket, books_agree, dollars, fresh},
};

/// Histories that go on side by side.
const AT_ONCE: usize = 32;
/// Histories in a run that was not told otherwise.
const USUAL: usize = 200;
/// How far the shop's clock moves after each round, in seconds.
const ROUNDS: [i64; 6] = [40, 300, 950, 3 * 3_600, 26 * 3_600, 80 * 3_600];
/// What every unit costs, in cents.
const PRICE: i64 = 1_250;
/// What each SKU begins with, and the one that runs out.
const PLENTY: i64 = 100_000;
const WHAT_IS_OPEN: &str = "select (select count(*) from task where state = 'open')
    + (select count(*) from inbox where processed_at is null)
    + (select count(*) from outbox where state = 'open')
    + (select count(*) from customer_order where status in ('awaiting_payment', 'cancelling'))
    + (select count(*) from refund where state in ('requested', 'pending'))
    + (select count(*) from payment where state in ('capturing', 'pending', 'disputed'))";

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
const PAID: [Act; 27] = [
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

struct Walk<'a> {
    shop: &'a TestShop,
    skus: &'a [String],
    scarce: &'a str,
    history: &'a mut History,
}

impl Walk<'_> {
    fn note(&mut self, line: String) {
        self.history.diary.push(line);
    }

    /// Asks until there is an answer that says what came of it; never is the shop at a loss.
    async fn ask(&mut self, method: Method, path: &str, body: &Value) -> Answer {
        let key = fresh("history");
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            let request = self.shop.request(method.clone(), path).bearer_auth(STAFF).header("Idempotency-Key", &key);
            let request = if body.is_null() { request } else { request.json(body) };
            let answer = Answer::of(request).await.expect("an answer");
            if answer.status != 503 {
                self.note(format!("  {path} {body}: {} {}", answer.status, answer.code()));
                let known = [200, 201, 202, 303, 404, 409, 422].contains(&answer.status);
                self.history.must(known, &format!("{} {}", answer.status, answer.text));
                return answer;
            }
            self.history.must(Instant::now() < patience, "the shop is away for good");
        }
    }

    /// Staff ask something of the order.
    async fn staff(&mut self, verb: &str, body: Value) -> bool {
        let path = format!("/v1/admin/orders/{}/{verb}", self.history.placed().order_id);
        let answer = self.ask(Method::POST, &path, &body).await;
        (200..300).contains(&answer.status)
    }

    /// Something happens at the bank or at the carrier's, if it can.
    async fn pull(&mut self, path: &str, body: Value) -> bool {
        let pulled = self.shop.bank.http.post(format!("{}/_sandbox/{path}", self.shop.bank.base)).json(&body);
        let answer = Answer::of(pulled).await.expect("an answer");
        self.note(format!("  bank {path} {body}: {}", answer.status));
        self.history.must(answer.status < 500, &answer.text);
        answer.status < 300
    }

    async fn look(&mut self) -> Value {
        let order = self.shop.order(self.history.placed()).await;
        self.history.sees(&order);
        order
    }

    /// What the bank has taken for this order, before anything went back.
    async fn charged(&self, order: &Value) -> i64 {
        let mut charged = 0;
        for payment in list(order, "payments") {
            let about = format!("books/summary?custom_id={}", text(payment, "payment_id"));
            charged += self.shop.bank.read(&about).await["captured"]["USD"].as_i64().unwrap_or(0);
        }
        charged
    }

    /// Rows of one kind on the bank's sheets of this order.
    async fn at_bank(&self, rows: &str) -> Vec<Value> {
        let mut found = Vec::new();
        for id in &self.history.attempts {
            found.extend_from_slice(list(&self.shop.bank.read(&format!("orders/{id}")).await, rows));
        }
        found
    }

    async fn shipments(&self) -> Vec<Value> {
        let path = format!("/v1/orders/{}/shipments", self.history.placed().order_id);
        list(&self.shop.see(&path).await.ok(), "shipments").to_vec()
    }

    async fn returns(&self) -> Vec<Value> {
        let path = format!("/v1/orders/{}/returns", self.history.placed().order_id);
        list(&self.shop.see(&path).await.ok(), "returns").to_vec()
    }

    // ── the beginning ────────────────────────────────────────────────────────────────────────────────────────────────

    async fn place(&mut self) {
        while self.history.placed.is_none() {
            let count = 1 + self.history.dice.roll(3);
            let mut lines = BTreeMap::new();
            for _ in 0..count {
                let scarce = self.history.dice.hits(10);
                let sku_id = if scarce { self.scarce } else { self.history.dice.pick(self.skus) };
                lines.insert(sku_id.to_owned(), self.history.dice.units(3));
            }
            let wish: Vec<(&str, i64)> = lines.iter().map(|(sku_id, quantity)| (sku_id.as_str(), *quantity)).collect();
            let mut body = basket(&wish);
            if self.history.dice.hits(80) {
                body["payment"] = json!("paypal");
            }
            let answer = self.ask(Method::POST, "/v1/checkouts", &body).await;
            if answer.code() == "out_of_stock" {
                self.history.must(lines.contains_key(self.scarce), "there is plenty of it");
                continue;
            }
            let placed = Placed::of(&answer.ok());
            self.history.called_off = vec![0; lines.len()];
            self.history.lines = lines.into_iter().collect();
            self.announced(placed);
        }
    }

    fn announced(&mut self, placed: Placed) {
        if !placed.approve_url.is_empty() {
            let id = placed.at_provider().to_owned();
            if !self.history.attempts.contains(&id) {
                self.history.attempts.push(id);
            }
        }
        self.history.placed = Some(placed);
    }

    // ── the acts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn step(&mut self) {
        let order = self.look().await;
        let usual: &[Act] = if text(&order, "status") == "awaiting_payment" { &UNPAID } else { &PAID };
        let among = if self.history.dice.hits(10) { &ANYTHING } else { usual };
        let mut act = *self.history.dice.pick(among);
        if [Act::BuyerCancels, Act::StaffCancel].contains(&act) && self.history.dice.hits(80) {
            // most orders are to live
            act = Act::Approve;
        }
        self.note(format!("{act:?} at {} {}", text(&order, "status"), text(&order, "payment_status")));
        match act {
            Act::Pay => self.pay(&order).await,
            Act::Approve => self.approve(&order).await,
            Act::ComeBack => self.come_back().await,
            Act::BuyerCancels => self.buyer_cancels(&order).await,
            Act::StaffCancel => self.staff_cancel(&order).await,
            Act::CallOff => self.call_off().await,
            Act::Refund => self.refund().await,
            Act::AskTooMuch => self.ask_too_much().await,
            Act::GiveBackAtBank => self.at_the_bank("refund").await,
            Act::Dispute => self.at_the_bank("dispute").await,
            Act::Reverse => self.at_the_bank("reverse").await,
            Act::Restore => self.at_the_bank("unreverse").await,
            Act::Resolve => self.resolve().await,
            Act::Decide => self.decide().await,
            Act::Hold => {
                self.staff("hold", json!({ "reason": "address looks wrong" })).await;
            }
            Act::Release => {
                self.staff("release", Value::Null).await;
            }
            Act::PackByHand => self.pack(&order, false).await,
            Act::PackWithLabel => self.pack(&order, true).await,
            Act::Ship => self.of_a_shipment("ship").await,
            Act::Deliver => self.of_a_shipment("deliver").await,
            Act::Void => self.of_a_shipment("void").await,
            Act::Scan => self.scan().await,
            Act::AskReturn => self.ask_return().await,
            Act::GoOnWithReturn => self.go_on_with_return().await,
        }
        self.look().await;
    }

    async fn pay(&mut self, order: &Value) {
        let path = self.history.placed().path("/payments");
        let answer = self.ask(Method::POST, &path, &json!({ "provider": "paypal" })).await;
        let is_open = ["awaiting_payment", "expired"].contains(&text(order, "status"));
        self.history.must(answer.status == 409 || is_open, "there was nothing to pay");
        if answer.status == 201 {
            let approve_url = text(&answer.body, "approve_url").to_owned();
            let placed = Placed { approve_url, ..self.history.placed().clone() };
            self.announced(placed);
        }
    }

    async fn approve(&mut self, order: &Value) {
        if self.history.attempts.is_empty() {
            return self.pay(order).await;
        }
        let how = *self
            .history
            .dice
            .pick(&["complete", "complete", "complete", "complete", "pending", "capture", "422", "partial"]);
        let id = self.history.dice.pick(&self.history.attempts.clone()).clone();
        self.pull(&format!("orders/{id}/approve"), json!({ "how": how })).await;
    }

    /// Whatever a buyer's browser says, only the bank's word counts.
    async fn come_back(&mut self) {
        let Placed { order_id, token, .. } = self.history.placed().clone();
        let path = format!("/orders/{order_id}/return?access={token}&token=x&PayerID=y");
        self.ask(Method::GET, &path, &Value::Null).await;
    }

    async fn buyer_cancels(&mut self, order: &Value) {
        let path = self.history.placed().path("/cancel");
        let answer = self.ask(Method::POST, &path, &Value::Null).await;
        if text(order, "status") == "completed" {
            self.history.must(answer.status == 409, "it was with its buyer");
        }
    }

    async fn staff_cancel(&mut self, order: &Value) {
        let agreed = self.staff("cancel", json!({ "reason": "the buyer called" })).await;
        let over = ["completed", "cancelled"].contains(&text(order, "status"));
        self.history.must(!agreed || !over, "there was nothing to cancel");
    }

    async fn call_off(&mut self) {
        let line = self.history.dice.roll(self.history.lines.len());
        let bought = self.history.lines[line].1;
        let quantity = self.history.dice.units(bought + 1);
        let wish = json!({ "lines": [{ "line": line, "quantity": quantity }], "reason": "one too many" });
        if self.staff("cancel", wish).await {
            self.history.called_off[line] += quantity;
        }
        let off = self.history.called_off[line];
        self.history.must(off <= bought, "more was called off than was bought");
    }

    async fn refund(&mut self) {
        let line = self.history.dice.roll(self.history.lines.len());
        let quantity = self.history.dice.units(self.history.lines[line].1);
        let cents = self.history.dice.units(self.history.total());
        let mut wish = match self.history.dice.roll(4) {
            0 => json!({}),
            1 => json!({ "amount": usd(cents) }),
            2 => json!({ "lines": [{ "line": line, "quantity": quantity }] }),
            _ => json!({ "goodwill": usd(cents.min(500)) }),
        };
        wish["reason"] = json!("arrived broken");
        if self.staff("refunds", wish).await {
            self.never_more_back_than_came().await;
        }
    }

    async fn never_more_back_than_came(&mut self) {
        let order = self.look().await;
        let ours = |refund: &&Value| {
            refund["kind"] != "mirrored" && ["requested", "pending", "completed"].contains(&text(refund, "status"))
        };
        let back: i64 = list(&order, "refunds").iter().filter(ours).map(|refund| cents(&refund["amount"])).sum();
        let charged = self.charged(&order).await;
        self.history.must(back <= charged, &format!("{back} goes back of {charged}"));
    }

    /// More than all attempts together can have brought.
    async fn ask_too_much(&mut self) {
        let attempts = i64::try_from(self.history.attempts.len()).expect("few");
        let wish = json!({ "amount": usd(self.history.total() * attempts.max(1) + 1), "reason": "a mistake" });
        let agreed = self.staff("refunds", wish).await;
        self.history.must(!agreed, "more was given back than ever came");
    }

    /// `refund`, `dispute`, `reverse` or `unreverse`, of any of its charges.
    async fn at_the_bank(&mut self, word: &str) {
        let captures = self.at_bank("captures").await;
        if captures.is_empty() {
            return;
        }
        let capture = self.history.dice.pick(&captures).clone();
        let id = text(&capture, "id").to_owned();
        let rest = minor(&capture["amount"]) - minor(&capture["refunded"]) - minor(&capture["reversed"]);
        let cents = self.history.dice.units(rest);
        let part = json!({ "currency_code": "USD", "value": format!("{}.{:02}", cents / 100, cents % 100) });
        let body = if word == "refund" { json!({ "amount": part }) } else { json!({}) };
        self.pull(&format!("captures/{id}/{word}"), body).await;
    }

    async fn resolve(&mut self) {
        for dispute in self.at_bank("disputes").await {
            let whose = *self.history.dice.pick(&["seller", "seller", "buyer", "withdrawn"]);
            self.pull(&format!("disputes/{}", text(&dispute, "id")), json!({ "resolve": whose })).await;
        }
    }

    /// The bank decides what it had not decided.
    async fn decide(&mut self) {
        for capture in self.at_bank("captures").await {
            if text(&capture, "status") == "PENDING" {
                let status = *self.history.dice.pick(&["COMPLETED", "COMPLETED", "DENIED", "DECLINED", "PENDING"]);
                self.pull(&format!("captures/{}/status", text(&capture, "id")), json!({ "status": status })).await;
            }
        }
    }

    async fn pack(&mut self, order: &Value, with_label: bool) {
        let line = self.history.dice.roll(self.history.lines.len());
        let bought = self.history.lines[line].1;
        let quantity = self.history.dice.units(bought + 1);
        let mut wish = json!({ "parcel": { "length_mm": 300, "width_mm": 200, "height_mm": 100, "grams": 900 } });
        let part = self.history.dice.hits(60);
        if part {
            wish["lines"] = json!([{ "line": line, "quantity": quantity }]);
        }
        if with_label {
            wish["service"] = json!({
                "provider": "shippo", "carrier": "usps", "token": "usps_priority", "name": "USPS Priority Mail",
            });
        } else {
            wish["carrier"] = json!("our bike");
        }
        let packed = self.staff("shipments", wish).await;
        self.history.must(!packed || !part || quantity <= bought, "more was packed than was bought");
        if packed {
            let after = self.look().await;
            let charged = self.charged(&after).await;
            self.history.must(charged > 0, "it was packed and never paid");
            let held = order["hold_reason"].is_string() && after["hold_reason"] == order["hold_reason"];
            self.history.must(!held, "it was packed while it was held back");
        }
    }

    async fn of_a_shipment(&mut self, verb: &str) {
        let shipments = self.shipments().await;
        if shipments.is_empty() {
            return;
        }
        let shipment = self.history.dice.pick(&shipments).clone();
        let agreed = self.staff(&format!("shipments/{}/{verb}", text(&shipment, "shipment_id")), Value::Null).await;
        let voided = text(&shipment, "status") == "voided";
        self.history.must(!(agreed && voided && verb != "void"), "what is called off cannot leave");
    }

    /// The carrier sees a parcel somewhere.
    async fn scan(&mut self) {
        let mut labels = Vec::new();
        for shipment in self.shipments().await {
            let about = format!("shippo/transactions?metadata={}", text(&shipment, "shipment_id"));
            labels.extend_from_slice(list(&self.shop.bank.read(&about).await, "transactions"));
        }
        if labels.is_empty() {
            return;
        }
        let label = self.history.dice.pick(&labels).clone();
        let words = ["PRE_TRANSIT", "TRANSIT", "TRANSIT", "DELIVERED", "DELIVERED", "RETURNED", "FAILURE"];
        let word = *self.history.dice.pick(&words);
        let path = format!("shippo/tracks/{}/{}", text(&label, "carrier"), text(&label, "tracking_number"));
        self.pull(&path, json!({ "status": word })).await;
    }

    async fn ask_return(&mut self) {
        let line = self.history.dice.roll(self.history.lines.len());
        let bought = self.history.lines[line].1;
        let quantity = self.history.dice.units(bought + 1);
        let path = self.history.placed().path("/returns");
        let wish = json!({ "lines": [{ "line": line, "quantity": quantity, "reason": "too small" }] });
        let answer = self.ask(Method::POST, &path, &wish).await;
        if answer.status == 201 {
            let shipments = self.shipments().await;
            let gone = gone_of(&shipments, line);
            self.history.must(quantity <= gone, &format!("{quantity} come back of {gone}"));
        }
    }

    async fn go_on_with_return(&mut self) {
        let returns = self.returns().await;
        if returns.is_empty() {
            return;
        }
        let goods = self.history.dice.pick(&returns).clone();
        let path = format!("/v1/admin/returns/{}", text(&goods, "return_id"));
        let line = list(&goods, "lines")[0].clone();
        let number = |field: &str| line[field].as_i64().unwrap_or(0);
        let refund = self.history.dice.hits(50);
        let (step, body) = match text(&goods, "status") {
            "requested" if self.history.dice.hits(80) => ("approve", Value::Null),
            "requested" => ("decline", json!({ "reason": "worn" })),
            "approved" | "in_transit" | "partly_received" => {
                let quantity = self.history.dice.units(number("quantity"));
                ("receive", json!({ "lines": [{ "line": line["line"], "quantity": quantity }] }))
            }
            "received" => {
                let restock = self.history.dice.units(number("received"));
                let verdict =
                    json!({ "line": line["line"], "restock": restock, "scrap": number("received") - restock });
                ("inspect", json!({ "lines": [verdict], "refund": refund }))
            }
            _ => ("close", json!({ "refund": refund })),
        };
        self.ask(Method::POST, &format!("{path}/{step}"), &body).await;
    }
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

// ── the world around ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// Lines that are bad for a while: webhooks twice, late and lost, calls that fail before and after they were done.
async fn trouble(shop: &TestShop, dice: &mut Dice, histories: usize) {
    let some = u32::try_from(histories / 20 + 1).expect("small");
    for kind in ["duplicate", "drop", "duplicate_new", "early"] {
        shop.bank.fault(json!({ "on": "webhook", "kind": kind, "times": some })).await;
    }
    shop.bank.fault(json!({ "on": "webhook", "kind": "delay", "ms": 300, "times": some })).await;
    for kind in ["duplicate", "drop", "early"] {
        shop.bank.control("shippo/faults", json!({ "on": "webhook", "kind": kind, "times": some })).await;
    }
    for on in ["create", "inspect", "capture", "refund", "dispute"] {
        shop.bank.fault(failure(dice, on)).await;
    }
    for on in ["buy", "inspect", "refund", "track", "shipment"] {
        shop.bank.control("shippo/faults", failure(dice, on)).await;
    }
    shop.bank.control("mail/faults", json!({ "kind": "greylist" })).await;
    let refunds = *dice.pick(&["complete", "pending"]);
    shop.bank.control("settings", json!({ "refunds": refunds })).await;
}

fn failure(dice: &mut Dice, on: &str) -> Value {
    let kind = *dice.pick(&["drop_before", "drop_after", "status", "status_after", "garbage", "html", "hang_after"]);
    let mut rule = json!({ "on": on, "kind": kind, "times": 1 + dice.roll(3) });
    if kind.starts_with("status") {
        rule["status"] = json!(*dice.pick(&[500, 503, 429]));
    }
    rule
}

async fn quiet(shop: &TestShop) {
    shop.bank.forgive().await;
    for path in ["shippo/faults", "mail/faults"] {
        shop.bank.http.delete(format!("{}/_sandbox/{path}", shop.bank.base)).send().await.expect("an answer");
    }
    shop.bank.control("settings", json!({ "refunds": "complete" })).await;
}

/// Whoever has not decided decides.
async fn everybody_decides(shop: &TestShop, dice: &mut Dice) {
    let books = shop.bank.books().await;
    for capture in list(&books, "captures").iter().filter(|row| row["status"] == "PENDING") {
        let status = *dice.pick(&["COMPLETED", "DENIED"]);
        shop.bank.control(&format!("captures/{}/status", text(capture, "id")), json!({ "status": status })).await;
    }
    // of a charge that was taken back the bank lets nobody give anything back: a refund that failed after that could
    // only be paid past it, by a person
    let fought_over = |capture: &Value| {
        minor(&capture["reversed"]) > 0
            || list(&books, "disputes").iter().any(|dispute| dispute["capture_id"] == capture["id"])
    };
    let fought_over: Vec<&Value> = list(&books, "captures").iter().filter(|row| fought_over(row)).collect();
    for refund in list(&books, "refunds").iter().filter(|row| row["status"] == "PENDING") {
        let may_fail = !fought_over.iter().any(|capture| capture["id"] == refund["capture_id"]);
        let status = if may_fail && dice.hits(33) { "FAILED" } else { "COMPLETED" };
        shop.bank.control(&format!("refunds/{}", text(refund, "id")), json!({ "status": status })).await;
    }
    for dispute in list(&books, "disputes").iter().filter(|row| row["status"] != "RESOLVED") {
        let whose = *dice.pick(&["seller", "buyer", "withdrawn"]);
        shop.bank.control(&format!("disputes/{}", text(dispute, "id")), json!({ "resolve": whose })).await;
    }
    let parcels = shop.bank.read("shippo/books").await;
    let open = |row: &&Value| row["status"] == "QUEUED" || row["status"] == "PENDING";
    for refund in list(&parcels, "refunds").iter().filter(open) {
        let status = *dice.pick(&["SUCCESS", "SUCCESS", "ERROR"]);
        let path = format!("shippo/refunds/{}", text(refund, "object_id"));
        shop.bank.control(&path, json!({ "status": status })).await;
    }
}

/// Time passes until nothing is left to do.
async fn all_is_done(shop: &TestShop, dice: &mut Dice, histories: &[History]) {
    quiet(shop).await;
    let patience = Instant::now() + Duration::from_secs(if histories.len() > USUAL { 300 } else { 120 });
    let mut hours = 0;
    loop {
        everybody_decides(shop, dice).await;
        shop.bank.settle().await;
        assert_eq!(shop.bank.control("shippo/webhooks/settle", json!({})).await["settled"], true);
        shop.later(3_600).await;
        hours += 1;
        // what is due now is done before time goes on
        let due = "select (select count(*) from inbox where processed_at is null)
            + (select count(*) from outbox where state = 'open')";
        eventually("the shop has listened", async || shop.count(due).await == 0 || Instant::now() > patience).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let open = shop.count(WHAT_IS_OPEN).await;
        if open == 0 {
            println!("nothing is left to do after {hours} hours");
            return;
        }
        if Instant::now() > patience {
            let left = what_is_left(shop).await;
            let concerned =
                histories.iter().filter(|own| left.iter().any(|row| row.starts_with(&own.placed().order_id)));
            let diaries: Vec<String> =
                concerned.map(|own| format!("{:?}\n{}", own.placed, own.diary.join("\n"))).collect();
            panic!("{open} things are never done:\n{}\n{}", left.join("\n"), diaries.join("\n\n"));
        }
    }
}

/// What is open, with the public id of the order that it is of.
async fn what_is_left(shop: &TestShop) -> Vec<String> {
    let mut conn = shop.db.conn().await;
    let sql = "select order_id, concat('task ', kind, ' due ', due_at, ': ', attempts, ' ', last_error)
            from task where state = 'open'
        union all select id, concat('order is ', status) from customer_order
            where status in ('awaiting_payment', 'cancelling')
        union all select order_id, concat('refund of ', amount_minor, ' is ', state) from refund
            where state in ('requested', 'pending')
        union all select order_id, concat('payment is ', state) from payment
            where state in ('capturing', 'pending', 'disputed')
        union all select 0, concat('webhook ', event_type) from inbox where processed_at is null
        union all select order_id, concat('news ', kind) from outbox where state = 'open'";
    let rows: Vec<(OrderId, String)> = sqlx::query_as(sql).fetch_all(&mut conn).await.expect("a question");
    rows.into_iter().map(|(order_id, what)| format!("{order_id}: {what}")).collect()
}

/// Tells the histories that an audit has found something about.
async fn whose_finding(shop: &TestShop, histories: &[History]) {
    let audit = shop.see("/v1/ops/audit").await.ok();
    let rows: Vec<String> =
        list(&audit, "findings").iter().flat_map(|own| list(own, "rows")).map(Value::to_string).collect();
    let numbers = rows.iter().flat_map(|row| row.split(|letter: char| !letter.is_ascii_digit()));
    let named: Vec<String> = numbers.filter_map(|word| word.parse().ok()).map(|id| OrderId(id).to_string()).collect();
    for history in histories.iter().filter(|own| named.contains(&own.placed().order_id)) {
        println!("found wrong: {}\n{}", history.placed().order_id, history.diary.join("\n"));
        let path = format!("/v1/orders/{}/events", history.placed().order_id);
        for event in list(&shop.see(&path).await.ok(), "events") {
            println!("    {event}");
        }
    }
}

// ── what must hold at the end ────────────────────────────────────────────────────────────────────────────────────────────

/// No order waits for a person; what it kept of the money fits what became of it. What left of each SKU, and what came back.
async fn ended_well(shop: &TestShop, history: &mut History) -> HashMap<String, i64> {
    let skus: &[String] = &[];
    let mut walk = Walk { shop, skus, scarce: "", history };
    let order = walk.look().await;
    let (shipments, returns) = (walk.shipments().await, walk.returns().await);
    let mut kept = 0;
    for payment in list(&order, "payments") {
        let about = format!("books/summary?custom_id={}", text(payment, "payment_id"));
        kept += shop.bank.read(&about).await["kept"]["USD"].as_i64().unwrap_or(0);
    }
    let history = &*walk.history;
    let status = text(&order, "status");
    history.must(
        ["confirmed", "completed", "cancelled", "expired"].contains(&status),
        &format!("it waits for somebody: {order}"),
    );
    history.must(kept <= history.total(), &format!("{kept} was kept of {}: {order}", history.total()));
    if ["cancelled", "expired"].contains(&status) {
        history.must(kept <= 0, &format!("{kept} was kept of an order that is {status}: {order}"));
    }
    for shipment in &shipments {
        let decided = !["purchasing", "voiding"].contains(&text(shipment, "status"));
        history.must(decided, &format!("a label is never decided: {shipment}"));
    }
    let mut net = HashMap::new();
    for (line, (sku_id, bought)) in history.lines.iter().enumerate() {
        let gone = gone_of(&shipments, line);
        history.must(gone + history.called_off[line] <= *bought, "more left than was bought and not called off");
        let lines = returns.iter().flat_map(|goods| list(goods, "lines"));
        let back: i64 = lines.filter(|back| back["line"] == line).filter_map(|back| back["restocked"].as_i64()).sum();
        history.must(back <= gone, "more came back than left");
        *net.entry(sku_id.clone()).or_default() += gone - back;
    }
    net
}

/// At most one label of a shipment costs money, by the carrier's books.
async fn one_label_each(shop: &TestShop) -> usize {
    let parcels = shop.bank.read("shippo/transactions").await;
    let mut live: BTreeMap<&str, usize> = BTreeMap::new();
    for label in list(&parcels, "transactions") {
        if ["SUCCESS", "QUEUED", "WAITING"].contains(&text(label, "status")) {
            *live.entry(text(label, "metadata")).or_default() += 1;
        }
    }
    assert!(live.values().all(|labels| *labels == 1), "{live:?}");
    live.len()
}

async fn stock_is_what_it_should_be(shop: &TestShop, openings: &[(String, i64)], histories: &mut [History]) {
    let mut gone: HashMap<String, i64> = HashMap::new();
    for history in histories {
        for (sku_id, net) in ended_well(shop, history).await {
            *gone.entry(sku_id).or_default() += net;
        }
    }
    for (sku_id, opening) in openings {
        let (on_hand, reserved) = shop.stock(sku_id).await;
        assert_eq!(on_hand, opening - gone.get(sku_id).unwrap_or(&0), "on hand of {sku_id}");
        let rows = shop.ledger(sku_id).await;
        let moves: i64 = rows.iter().filter_map(|row| row["d_reserved"].as_i64()).sum();
        assert_eq!(reserved, moves, "reserved of {sku_id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it still finds orders that end wrongly: money restored while a label is being given back"]
async fn whatever_happens_stock_money_and_orders_agree() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let count: usize = number("SOUK_HISTORIES").and_then(|count| usize::try_from(count).ok()).unwrap_or(USUAL);
    let seed: u64 = number("SOUK_SEED").unwrap_or_else(|| RandomState::new().hash_one(count));
    println!("SOUK_HISTORIES={count} SOUK_SEED={seed}");
    let shop = TestShop::with(&[("SOUK_SHIPPO__TIMEOUT_SECONDS", "2")]).await;
    let told = format!("{}/v1/webhooks/shippo?token=souk", shop.base);
    shop.bank.control("shippo/settings", json!({ "webhook_url": told })).await;
    let mut openings = Vec::new();
    for _ in 0..6 {
        openings.push((shop.sku(PLENTY).await, PLENTY));
    }
    let few = i64::try_from(count / 10).expect("small");
    let skus: Vec<String> = openings.iter().map(|(sku_id, _)| sku_id.clone()).collect();
    let scarce = shop.sku(few).await;
    openings.push((scarce.clone(), few));

    let mut dice = Dice(seed);
    let begun = |number: usize| History {
        dice: Dice(seed ^ (u64::try_from(number).expect("small") << 32)),
        lines: Vec::new(),
        placed: None,
        attempts: Vec::new(),
        called_off: Vec::new(),
        status: "awaiting_payment".to_owned(),
        diary: Vec::new(),
    };
    let mut histories: Vec<History> = (1..=count).map(begun).collect();
    for (round, seconds) in ROUNDS.into_iter().enumerate() {
        trouble(&shop, &mut dice, count).await;
        let walks = histories.iter_mut().map(|history| {
            let (shop, skus, scarce) = (&shop, skus.as_slice(), scarce.as_str());
            async move {
                let mut walk = Walk { shop, skus, scarce, history };
                walk.place().await;
                for _ in 0..2 + walk.history.dice.roll(4) {
                    walk.step().await;
                }
            }
        });
        stream::iter(walks).for_each_concurrent(AT_ONCE, |walk| walk).await;
        shop.later(seconds).await;
        println!("round {round} is over");
    }
    all_is_done(&shop, &mut dice, &histories).await;
    whose_finding(&shop, &histories).await;
    shop.clean().await;
    books_agree(&shop).await;
    stock_is_what_it_should_be(&shop, &openings, &mut histories).await;
    let labels = one_label_each(&shop).await;
    assert_eq!(shop.count("select count(*) from outbox where state = 'dead'").await, 0);

    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for history in &histories {
        let order = shop.order(history.placed()).await;
        let sides = ["status", "payment_status", "fulfilment_status"].map(|side| text(&order, side).to_owned());
        *ends.entry(sides.join(" ")).or_default() += 1;
    }
    println!("{labels} labels, and orders that are\n{ends:#?}");
    shop.app.stop().await;
}
