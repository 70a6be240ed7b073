//! One step of a history: what somebody does to an order, and what must hold of the answer.

use std::{collections::BTreeMap, time::Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::{ANYTHING, Act, History, PAID, Shelf, UNPAID, cents, gone_of, list, minor, text, usd};
use crate::support::{
    PATIENCE,
    shop::{Answer, Placed, STAFF, TestShop, basket, fresh},
};

pub(super) struct Walk<'a> {
    pub(super) shop: &'a TestShop,
    pub(super) shelf: &'a Shelf,
    pub(super) history: &'a mut History,
}

impl Walk<'_> {
    fn note(&mut self, line: String) {
        self.history.diary.push(line);
    }

    /// Asks until there is an answer that says what came of it; never is the shop at a loss.
    async fn ask(&mut self, method: Method, path: &str, body: &Value) -> Answer {
        let key = fresh("history");
        let patience = Instant::now() + PATIENCE;
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

    pub(super) async fn look(&mut self) -> Value {
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
    pub(super) async fn at_bank(&self, rows: &str) -> Vec<Value> {
        let mut found = Vec::new();
        for id in &self.history.attempts {
            found.extend_from_slice(list(&self.shop.bank.read(&format!("orders/{id}")).await, rows));
        }
        found
    }

    pub(super) async fn shipments(&self) -> Vec<Value> {
        let path = format!("/v1/orders/{}/shipments", self.history.placed().order_id);
        list(&self.shop.see(&path).await.ok(), "shipments").to_vec()
    }

    pub(super) async fn returns(&self) -> Vec<Value> {
        let path = format!("/v1/orders/{}/returns", self.history.placed().order_id);
        list(&self.shop.see(&path).await.ok(), "returns").to_vec()
    }

    // ── the beginning ────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) async fn place(&mut self) {
        while self.history.placed.is_none() {
            let count = 1 + self.history.dice.roll(3);
            let mut lines = BTreeMap::new();
            for _ in 0..count {
                let scarce = self.history.dice.hits(10);
                let plenty = self.shelf.plenty();
                let sku_id = if scarce { self.shelf.scarce() } else { &self.history.dice.pick(plenty).0 };
                lines.insert(sku_id.to_owned(), self.history.dice.units(3));
            }
            let wish: Vec<(&str, i64)> = lines.iter().map(|(sku_id, quantity)| (sku_id.as_str(), *quantity)).collect();
            let mut body = basket(&wish);
            if self.history.dice.hits(80) {
                body["payment"] = json!("paypal");
            }
            let answer = self.ask(Method::POST, "/v1/checkouts", &body).await;
            if answer.code() == "out_of_stock" {
                self.history.must(lines.contains_key(self.shelf.scarce()), "there is plenty of it");
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

    pub(super) async fn step(&mut self) {
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
            Act::Lapse => self.lapse().await,
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

    /// `refund`, `dispute`, `reverse` or `unreverse`, of any of its charges; no two in one second, the finest time that the
    /// provider tells.
    async fn at_the_bank(&mut self, word: &str) {
        self.a_second_later().await;
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

    async fn a_second_later(&self) {
        self.shop.bank.control("clock", json!({ "advance_ms": 1_000 })).await;
    }

    async fn resolve(&mut self) {
        self.a_second_later().await;
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
        for authorisation in self.at_bank("authorizations").await {
            if text(&authorisation, "status") == "PENDING" {
                let status = *self.history.dice.pick(&["CREATED", "CREATED", "DENIED"]);
                self.pull(&format!("authorizations/{}", text(&authorisation, "id")), json!({ "status": status })).await;
            }
        }
    }

    /// What is reserved is let go by the bank.
    async fn lapse(&mut self) {
        for authorisation in self.at_bank("authorizations").await {
            if text(&authorisation, "status") == "CREATED" {
                self.pull(&format!("authorizations/{}", text(&authorisation, "id")), json!({ "status": "VOIDED" }))
                    .await;
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
        if agreed && verb == "ship" {
            let order = self.look().await;
            let charged = self.charged(&order).await;
            self.history.must(charged > 0, "it left and was never paid");
        }
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
