//! Whole lives of payments: everything that can happen to one at the provider, in every order, heard of in every order and
//! twice; and ten minutes without a provider. However it goes, the shop ends up with what the provider's books say.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    money::trick,
    paypal_table::{charge, end, heard, replay},
    support::{
        eventually, passes,
        shop::{HASTY, Placed, TestShop, books_agree, paid_basket},
    },
};

/// Stories told side by side.
const AT_ONCE: usize = 8;

/// What can happen to a payment at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Approved,
    Charged,
    ChargedUndecided,
    Completed,
    Denied,
    RefundedInPart,
    RefundedWhole,
    Reversed,
    Restored,
    Disputed,
    Won,
    Lost,
}

const ACTS: [Act; 12] = [
    Act::Approved,
    Act::Charged,
    Act::ChargedUndecided,
    Act::Completed,
    Act::Denied,
    Act::RefundedInPart,
    Act::RefundedWhole,
    Act::Reversed,
    Act::Restored,
    Act::Disputed,
    Act::Won,
    Act::Lost,
];

/// How far a payment has come at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Approved,
    Undecided,
    Here,
    Disputed,
    Reversed,
    Over,
}

/// Where an act leads; none where it cannot happen.
fn after(stage: Stage, act: Act) -> Option<Stage> {
    match (stage, act) {
        (Stage::Open, Act::Approved) => Some(Stage::Approved),
        (Stage::Open | Stage::Approved, Act::Charged) | (Stage::Undecided, Act::Completed) => Some(Stage::Here),
        (Stage::Open | Stage::Approved, Act::ChargedUndecided) => Some(Stage::Undecided),
        (Stage::Here, Act::RefundedInPart) | (Stage::Reversed, Act::Restored) | (Stage::Disputed, Act::Won) => {
            Some(Stage::Here)
        }
        (Stage::Here, Act::Reversed) => Some(Stage::Reversed),
        (Stage::Here, Act::Disputed) => Some(Stage::Disputed),
        (Stage::Disputed, Act::RefundedInPart) => Some(Stage::Disputed),
        (Stage::Undecided, Act::Denied)
        | (Stage::Here | Stage::Disputed, Act::RefundedWhole)
        | (Stage::Disputed, Act::Lost | Act::Reversed) => Some(Stage::Over),
        _ => None,
    }
}

/// Every three acts that can follow each other.
fn lives() -> Vec<[Act; 3]> {
    let mut lives = Vec::new();
    for first in ACTS {
        for second in ACTS {
            for third in ACTS {
                let way = after(Stage::Open, first).and_then(|stage| after(stage, second));
                if way.and_then(|stage| after(stage, third)).is_some() {
                    lives.push([first, second, third]);
                }
            }
        }
    }
    lives
}

impl Act {
    /// What the provider's webhook about it is called.
    fn event_type(self) -> &'static str {
        match self {
            Self::Approved => "CHECKOUT.ORDER.APPROVED",
            Self::Charged | Self::Completed | Self::Restored => "PAYMENT.CAPTURE.COMPLETED",
            Self::ChargedUndecided => "PAYMENT.CAPTURE.PENDING",
            Self::Denied => "PAYMENT.CAPTURE.DENIED",
            Self::RefundedInPart | Self::RefundedWhole => "PAYMENT.CAPTURE.REFUNDED",
            Self::Reversed => "PAYMENT.CAPTURE.REVERSED",
            Self::Disputed => "CUSTOMER.DISPUTE.CREATED",
            Self::Won | Self::Lost => "CUSTOMER.DISPUTE.RESOLVED",
        }
    }

    /// Lets it happen. What the shop has done already, as it heard of the approval, is not done twice.
    async fn happens(self, shop: &TestShop, placed: &Placed) {
        let sheet = shop.bank.sheet(placed).await;
        let charged = sheet["captures"].as_array().is_some_and(|captures| !captures.is_empty());
        let capture_id = sheet["captures"][0]["id"].as_str().unwrap_or_default();
        let dispute_id = sheet["disputes"][0]["id"].as_str().unwrap_or_default();
        let pull = async |path: String, body: Value| {
            shop.bank.control(&path, body).await;
        };
        match self {
            Self::Approved => shop.bank.approve(placed).await,
            Self::Charged if !charged => {
                charge(shop, placed, json!({})).await;
            }
            Self::ChargedUndecided if !charged => {
                charge(shop, placed, json!({ "status": "PENDING" })).await;
            }
            Self::Charged | Self::ChargedUndecided => {}
            Self::Completed => pull(format!("captures/{capture_id}/status"), json!({ "status": "COMPLETED" })).await,
            Self::Denied => pull(format!("captures/{capture_id}/status"), json!({ "status": "DENIED" })).await,
            Self::RefundedInPart => {
                let part = json!({ "currency_code": "USD", "value": "2.50" });
                pull(format!("captures/{capture_id}/refund"), json!({ "amount": part })).await;
            }
            Self::RefundedWhole => pull(format!("captures/{capture_id}/refund"), json!({})).await,
            Self::Reversed => pull(format!("captures/{capture_id}/reverse"), json!({})).await,
            Self::Restored => pull(format!("captures/{capture_id}/unreverse"), json!({})).await,
            Self::Disputed => pull(format!("captures/{capture_id}/dispute"), json!({})).await,
            Self::Won => pull(format!("disputes/{dispute_id}"), json!({ "resolve": "seller" })).await,
            Self::Lost => pull(format!("disputes/{dispute_id}"), json!({ "resolve": "buyer" })).await,
        }
    }
}

/// One way to hear of a life: the first few acts as they happen, the others afterwards and in this order.
#[derive(Debug, Clone)]
struct Hearing {
    life: [Act; 3],
    at_once: usize,
    later: Vec<usize>,
}

/// All orders of the acts that were not heard of at once.
fn hearings(life: [Act; 3]) -> Vec<Hearing> {
    let mut all = Vec::new();
    for later in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        all.push(Hearing { life, at_once: 0, later: later.to_vec() });
    }
    // an approval that is heard of is charged by the shop itself, and never waits for a bank
    if life[0] != Act::Approved {
        all.push(Hearing { life, at_once: 1, later: vec![1, 2] });
        all.push(Hearing { life, at_once: 1, later: vec![2, 1] });
        all.push(Hearing { life, at_once: 2, later: vec![2] });
    }
    all
}

/// Does this to each of them, some at a time.
async fn each<T>(all: &[T], act: impl AsyncFn(&T)) {
    stream::iter(all).for_each_concurrent(AT_ONCE, |one| act(one)).await;
}

/// Webhooks are lost, and then told from a recording: each twice, in each order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_three_events_in_any_order() {
    // however long it takes, no hold ends meanwhile
    let shop = TestShop::with(&[("SOUK_CHECKOUT__HOLD_SECONDS", "86400")]).await;
    // nothing but webhooks tells of anything
    shop.bank.fault(json!({ "on": "events", "kind": "status", "status": 500, "times": 0 })).await;
    let sku_id = shop.sku(1_000).await;
    let mut told: Vec<(Hearing, Placed)> = Vec::new();
    for hearing in lives().into_iter().flat_map(hearings) {
        told.push((hearing, shop.sell(&sku_id).await));
    }
    assert!(told.len() > 100, "{}", told.len());

    for step in 0..3 {
        trick(&shop, "drop", None, 0).await;
        each(&told, async |(hearing, placed)| hearing.life[step].happens(&shop, placed).await).await;
        shop.bank.settle().await;
        forget_tricks(&shop).await;
        each(&told, async |(hearing, placed)| {
            if step < hearing.at_once {
                assert!(replay(&shop, placed, Some(hearing.life[step].event_type())).await >= 1, "{hearing:?}");
            }
        })
        .await;
        heard(&shop).await;
        shop.bank.control("clock", json!({ "advance_ms": 2_000 })).await;
    }
    for turn in 0..3 {
        for _twice in 0..2 {
            each(&told, async |(hearing, placed)| {
                let Some(step) = hearing.later.get(turn) else { return };
                assert!(replay(&shop, placed, Some(hearing.life[*step].event_type())).await >= 1, "{hearing:?}");
            })
            .await;
            shop.bank.settle().await;
        }
        heard(&shop).await;
    }

    books_agree(&shop).await;
    // what was heard of while it happened was answered at once; of what came afterwards the order must not matter
    let mut ends: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (hearing, placed) in &told {
        ends.entry((hearing.life, hearing.at_once)).or_default().insert(shop.status(placed).await);
    }
    for ((life, at_once), ends) in &ends {
        assert_eq!(ends.len(), 1, "{life:?}, {at_once} heard of at once, ends in more than one way: {ends:?}");
    }
    end(shop).await;
}

async fn forget_tricks(shop: &TestShop) {
    shop.bank.forgive().await;
    shop.bank.fault(json!({ "on": "events", "kind": "status", "status": 500, "times": 0 })).await;
}

/// Every call of the provider fails, in one way, for ten minutes.
async fn outage(shop: &TestShop, fault: &Value) {
    for operation in ["create", "inspect", "capture", "refund", "dispute", "events"] {
        let mut rule = fault.clone();
        rule["on"] = json!(operation);
        rule["times"] = json!(0);
        shop.bank.fault(rule).await;
    }
}

/// Ten minutes without a provider: what was approved is charged once, when it is back; new orders are taken meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_minutes_without_a_provider() {
    let faults = [
        json!({ "kind": "status", "status": 503 }),
        json!({ "kind": "status_after", "status": 500 }),
        json!({ "kind": "status", "status": 429, "retry_after": 2 }),
        json!({ "kind": "garbage" }),
        json!({ "kind": "hang_after" }),
    ];
    stream::iter(&faults).for_each_concurrent(2, ten_minutes_of).await;
}

async fn ten_minutes_of(fault: &Value) {
    const APPROVED: usize = 12;
    const NEW: usize = 4;
    const UNFINISHED: &str = "select (select count(*) from task where state = 'open')
        + (select count(*) from inbox where processed_at is null)";
    // what was tried in vain for ten minutes may be put off for five, so that a usual hold would end just as it is tried again
    let settings = [("SOUK_HTTP__TIMEOUT_SECONDS", "4"), HASTY, ("SOUK_CHECKOUT__HOLD_SECONDS", "86400")];
    let shop = TestShop::with(&settings).await;
    let sku_id = shop.sku(100).await;
    let mut approved = Vec::new();
    for _ in 0..APPROVED {
        approved.push(shop.sell(&sku_id).await);
    }
    outage(&shop, fault).await;
    shop.bank.control("approve_all", json!({})).await;
    shop.bank.settle().await;
    eventually("the breaker opens", async || shop.breaker("payment/paypal").await == "open").await;
    let new = futures::future::join_all((0..NEW).map(|_| shop.place(paid_basket(&[(&sku_id, 1)])))).await;
    for _ in 0..20 {
        shop.later(30).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(shop.count("select count(*) from customer_order where status = 'confirmed'").await, 0, "{fault}");

    shop.bank.forgive().await;
    let what = fault.to_string();
    for placed in &approved {
        passes(&shop, 20, async || shop.status(placed).await == ("confirmed".into(), "paid".into()), &what).await;
        assert_eq!(shop.bank.charged(placed).await, (1, 0.0), "{fault}");
    }
    for placed in new {
        let mut url = String::new();
        let announced = async || {
            let order = shop.order(&placed).await;
            url = order["payments"][0]["approve_url"].as_str().unwrap_or_default().to_owned();
            !url.is_empty()
        };
        passes(&shop, 1, announced, &what).await;
        let placed = Placed { approve_url: url, ..placed };
        shop.bank.approve(&placed).await;
        passes(&shop, 1, async || shop.status(&placed).await == ("confirmed".into(), "paid".into()), &what).await;
        assert_eq!(shop.bank.charged(&placed).await, (1, 0.0), "{fault}");
    }
    assert_eq!(shop.breaker("payment/paypal").await, "closed", "{fault}");
    // what failed for ten minutes comes again later and later
    passes(&shop, 60, async || shop.count(UNFINISHED).await == 0, "nothing is left to do").await;
    assert_eq!(shop.bank.summary().await["orders"], APPROVED + NEW, "{fault}");
    end(shop).await;
}
