//! One who looks around, orders, and then pays at the sandbox and waits for the confirmation, or calls the order off, or
//! never comes back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::hammer::{
    diary::Entry,
    line::{Line, Lost, Target},
    load::Buyer,
    run::Run,
    said::{self, Placed},
    schedule::Turn,
    tally::Kind,
    wish::{Fate, Habits, Request},
};

/// How long somebody who was refused, or not heard, tries again.
const INSISTENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);
/// How soon, and how late, somebody looks again whether the payment has arrived.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(250);

/// Where orders are paid: a sandbox, never a real bank.
#[derive(Clone)]
pub struct Bank {
    /// `http://…`, as the shop's answers name it.
    pub url: String,
    /// The same.
    pub target: Target,
}

/// A buyer who stays until all is done.
pub struct Whole {
    run: Arc<Run>,
    bank: Bank,
    habits: Habits,
    shop_line: Line,
    bank_line: Line,
    request: Request,
}

impl Whole {
    /// With a connection of its own to either.
    #[must_use]
    pub fn new(run: Arc<Run>, bank: Bank, habits: Habits) -> Self {
        let bank_line = Line::new(bank.target.clone(), run.patience);
        Self { shop_line: run.line(), bank_line, run, bank, habits, request: Request::default() }
    }

    /// A page of products, and one SKU of what is wanted; each was due `late` before it is asked for.
    async fn browse(&mut self, turn: Turn, late: Duration) {
        let lines = self.run.wishes.lines(turn.number);
        let sku = lines.first().map(|(sku_id, _)| format!("/v1/skus/{sku_id}"));
        for path in ["/v1/products?limit=20".to_owned()].into_iter().chain(sku) {
            let request = self.run.target.request("GET", &path, "", None);
            let due = Instant::now() - late;
            let answer = self.shop_line.ask(&request).await.map(|reply| (reply.status, reply.body));
            match answer {
                Ok((200, _)) => self.run.tally.note("browsed", due),
                Ok((status, body)) => {
                    let what = format!("browsing: {}", said::complaint(status, body));
                    // nobody asks again: a shop that is busy or away for a moment may say so
                    if is_later(status) { self.run.tally.wrong(what) } else { self.run.wronged(what) }
                }
                Err(lost) => {
                    self.run.tally.note("no answer, browsing", due);
                    self.run.tally.wrong(format!("browsing: {lost}"));
                }
            }
        }
    }

    /// Opens a payment, approves it, and waits until the shop has heard of it.
    async fn pay(&mut self, number: u64, placed: &Placed) -> Option<()> {
        let Placed { order_id, order_token } = placed;
        let path = format!("/v1/orders/{order_id}/payments?token={order_token}");
        let opened = self.command("payment opened", &path, Some(r#"{"provider":"paypal"}"#)).await?;
        let approve_url = opened["approve_url"].as_str().unwrap_or_default();
        let Some(id) = approve_url.strip_prefix(&self.bank.url).and_then(|rest| rest.split_once("token=")) else {
            self.run.tally.wrong("paying: the approve_url is not of the sandbox at --sandbox-url");
            return None;
        };
        self.approve(id.1).await?;
        self.run.note(Entry::Paid(number))?;
        self.confirmed(placed).await;
        Some(())
    }

    async fn approve(&mut self, id: &str) -> Option<()> {
        let request = self.bank.target.request("POST", &format!("/_sandbox/orders/{id}/approve"), "", Some("{}"));
        let since = Instant::now();
        match insist(&mut self.bank_line, &request).await {
            Ok((200..300, _)) => self.run.tally.note("approved", since),
            Ok((status, body)) => {
                self.run.tally.wrong(format!("approving: {}", said::complaint(status, &body)));
                return None;
            }
            Err(lost) => {
                self.run.tally.wrong(format!("approving: {lost}"));
                return None;
            }
        }
        Some(())
    }

    /// From the approval to the moment at which the buyer sees it, a look every few milliseconds.
    async fn confirmed(&mut self, placed: &Placed) {
        let Placed { order_id, order_token } = placed;
        let request = self.run.target.request("GET", &format!("/v1/orders/{order_id}?token={order_token}"), "", None);
        let (since, mut pause) = (Instant::now(), LOOK);
        while since.elapsed() < INSISTENCE && !*self.run.stop.borrow() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
            let Ok(reply) = self.shop_line.ask(&request).await else { continue };
            let order: Value = serde_json::from_slice(reply.body).unwrap_or_default();
            match order["status"].as_str() {
                Some("confirmed") => return self.run.tally.note("confirmed", since),
                Some("awaiting_payment") | None => {}
                Some(other) => return self.run.tally.wrong(format!("paid, and it is {other}")),
            }
        }
        // whether it is confirmed in the end is for the verdict to see
        self.run.tally.wrong("paid, not confirmed while the buyer waited");
    }

    /// Something that may be said again.
    async fn command(&mut self, kind: Kind, path: &str, body: Option<&str>) -> Option<Value> {
        let request = self.run.target.request("POST", path, "", body);
        let since = Instant::now();
        match insist(&mut self.shop_line, &request).await {
            Ok((200..300, body)) => {
                self.run.tally.note(kind, since);
                return serde_json::from_slice(&body).ok();
            }
            Ok((status, body)) => {
                let what = format!("not {kind}: {}", said::complaint(status, &body));
                // an order has its times: one that was late hears so
                if status == 409 { self.run.tally.wrong(what) } else { self.run.wronged(what) }
            }
            Err(lost) => self.run.tally.wrong(format!("not {kind}: {lost}")),
        }
        None
    }
}

/// Whether an answer is "later".
fn is_later(status: u16) -> bool {
    status == 429 || status >= 500
}

/// Asks until there is an answer that is not "later".
async fn insist(line: &mut Line, request: &[u8]) -> Result<(u16, Vec<u8>), Lost> {
    let until = Instant::now() + INSISTENCE;
    loop {
        let answer = line.ask(request).await.map(|reply| (reply.status, reply.body.to_vec()));
        let later = answer.as_ref().map_or(true, |(status, _)| is_later(*status));
        if !later || Instant::now() > until {
            return answer;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Buyer for Whole {
    async fn visit(&mut self, turn: Turn) {
        // who was let in late is late for every step: each counts from when it would have begun
        let late = turn.due.elapsed();
        self.browse(turn, late).await;
        let checkout = Turn { due: Instant::now() - late, ..turn };
        let run = Arc::clone(&self.run);
        let Some(placed) = run.checkout(&mut self.shop_line, &mut self.request, checkout).await else { return };
        match run.wishes.fate(turn.number, self.habits) {
            Fate::Paid => {
                self.pay(turn.number, &placed).await;
            }
            Fate::CalledOff => {
                let path = format!("/v1/orders/{}/cancel?token={}", placed.order_id, placed.order_token);
                self.command("called off", &path, None).await;
            }
            Fate::Left => {}
        }
    }
}
