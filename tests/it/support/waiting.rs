//! Waiting for what is bound to happen. Nobody sleeps for a guessed time, and no wait measures the machine: it may be busy
//! with something else, and ten times slower than it is now. Whoever waits in vain says how things stand.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use souk_actors::domain::OrderId;

use super::{TestDb, TestEngine, shop::TestShop};

/// How long anything is waited for; only what fails takes so long. Less than the two minutes after which the engine asks a
/// provider unbidden: what was to happen at once must not pass because of that.
pub(crate) const PATIENCE: Duration = Duration::from_secs(100);
/// How long what is due may keep a story's clock from moving: some of it waits for what is not due yet.
const A_WHILE: Duration = Duration::from_secs(2);
/// Pauses between two looks: short at first, longer where it takes longer, for looking costs the machine something too.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(50);

/// Waits for what is bound to happen.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    eventually_or(what, holds, async || String::new()).await;
}

/// The same; in vain it tells how things stand.
pub(crate) async fn eventually_or(what: &str, holds: impl AsyncFnMut() -> bool, tell: impl AsyncFn() -> String) {
    wait(PATIENCE, what, holds, tell).await;
}

async fn wait(patience: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool, tell: impl AsyncFn() -> String) {
    let (give_up, mut pause) = (Instant::now() + patience, SHORTEST);
    while !holds().await {
        if Instant::now() > give_up {
            panic!("in vain: {what}\n{}", tell().await);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 5 / 4).min(LONGEST);
    }
}

/// Waits; meanwhile time passes in the shop, so many seconds at a time, and no faster than the shop does what is due: else a
/// slow machine's orders would expire before anybody has come to them.
pub(crate) async fn passes(shop: &TestShop, seconds: i64, mut holds: impl AsyncFnMut() -> bool, what: &str) {
    let mut moved = Instant::now();
    let step = async || {
        if holds().await {
            return true;
        }
        if moved.elapsed() > A_WHILE || !shop.db.is_anything_due(shop.now().await).await {
            shop.later(seconds).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            moved = Instant::now();
        }
        false
    };
    wait(3 * PATIENCE, what, step, async || shop.how_things_stand().await).await;
}

impl TestDb {
    /// Whether an order has something to do, or is at it: what is due stays due until its outcome is committed.
    async fn is_anything_due(&self, now: DateTime<Utc>) -> bool {
        let sql = "select exists (select from task where state = 'open' and due_at <= $1)
            or exists (select from customer_order where status = 'awaiting_payment' and deadline <= $1)
            or exists (select from payment where check_at <= $1)
            or exists (select from shipment where check_at <= $1)
            or exists (select from inbox where processed_at is null and next_at <= $1)
            or exists (select from outbox where state = 'open' and next_at <= $1)";
        sqlx::query_scalar(sql).bind(now).fetch_one(&mut self.conn().await).await.expect("a question")
    }

    /// Whether the answers to all questions that are due have been taken in.
    async fn are_checks_answered(&self, now: DateTime<Utc>) -> bool {
        let sql = "select not exists (select from payment where check_at <= $1)
            and not exists (select from shipment where check_at <= $1)";
        sqlx::query_scalar(sql).bind(now).fetch_one(&mut self.conn().await).await.expect("a question")
    }

    /// The newest orders, and what is open of any, at a time.
    async fn how_things_stand(&self, now: DateTime<Utc>) -> String {
        let orders = "select id, concat(status, ' until ', deadline, ': ', (
                select string_agg(concat(state, ' payment, check at ', check_at), '; ') from payment where order_id = o.id))
            from customer_order o order by id desc limit 40";
        let open = "select order_id, concat('task ', kind, ' due ', due_at, ': ', attempts, ' attempts, ', last_error)
                from task where state = 'open'
            union all select order_id, concat('refund of ', amount_minor, ' is ', state) from refund
                where state in ('requested', 'pending')
            union all select order_id, concat('shipment is ', state, ', check at ', check_at) from shipment
                where check_at is not null
            union all select 0, concat('webhook ', event_type, ' due ', next_at, ': ', attempts, ' attempts')
                from inbox where processed_at is null
            union all select order_id, concat('news ', kind, ' due ', next_at, ': ', attempts, ' attempts, ', last_error)
                from outbox where state = 'open'";
        let mut conn = self.conn().await;
        let mut lines = vec![format!("at {now}:")];
        for sql in [orders, open] {
            let rows: Vec<(OrderId, String)> = sqlx::query_as(sql).fetch_all(&mut conn).await.expect("a question");
            lines.extend(rows.into_iter().map(|(order_id, what)| format!("{order_id}: {what}")));
        }
        lines.join("\n")
    }
}

impl TestEngine {
    /// Waits; in vain it tells how things stand.
    pub(crate) async fn comes_about(&self, what: &str, holds: impl AsyncFnMut() -> bool) {
        eventually_or(what, holds, async || self.db.how_things_stand(self.clock.now()).await).await;
    }

    /// Whoever was to be asked by now has been, and the answer is taken in: a question that a provider has heard is not yet
    /// that, and the next one has its time from it.
    pub(crate) async fn all_checked(&self) {
        self.comes_about("all are checked", async || self.db.are_checks_answered(self.clock.now()).await).await;
    }
}

impl TestShop {
    /// What its clock says.
    async fn now(&self) -> DateTime<Utc> {
        let told = self.order_staff("/v1/ops/clock", json!({ "advance_seconds": 0 })).await.ok();
        serde_json::from_value(told["now"].clone()).expect("a time")
    }

    /// Whoever was to be asked by now has been, and the answer is taken in.
    pub(crate) async fn all_checked(&self) {
        let told = async || self.how_things_stand().await;
        eventually_or("all are checked", async || self.db.are_checks_answered(self.now().await).await, told).await;
    }

    /// What is due now is done before time goes on, but for what waits for something that is not due yet.
    pub(crate) async fn does_what_is_due(&self) {
        let (since, now) = (Instant::now(), self.now().await);
        let idle = async || since.elapsed() > A_WHILE || !self.db.is_anything_due(now).await;
        eventually("what is due is done", idle).await;
    }

    /// Whether a provider or a carrier is being left alone, as the supervision tree shows it.
    pub(crate) async fn breaker(&self, name: &str) -> String {
        let tree = self.see("/v1/ops/actors").await.ok();
        let found = find(&tree, name).unwrap_or_default();
        found["detail"]["breaker"].as_str().unwrap_or_default().to_owned()
    }

    async fn how_things_stand(&self) -> String {
        let breakers = (self.breaker("payment/paypal").await, self.breaker("shipment/shippo").await);
        format!("breakers {breakers:?}, {}", self.db.how_things_stand(self.now().await).await)
    }
}

/// The node of this name, wherever it hangs.
fn find(tree: &Value, name: &str) -> Option<Value> {
    if tree["name"] == name {
        return Some(tree.clone());
    }
    let below =
        tree.as_object().into_iter().flat_map(|node| node.values()).chain(tree.as_array().into_iter().flatten());
    below.filter(|value| value.is_object() || value.is_array()).find_map(|value| find(value, name))
}
