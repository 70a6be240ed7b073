//! All orders of any three things that a provider can say of a payment: what is known of the money is the same, and it ends as
//! a confirmed order or goes back.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Draft, Funds};
use crate::domain::{
    Address, Capture, Created, Fact, FactKind, FactStatus, Intent, Money, Order, OrderId, OrderStatus, Part, PartState,
    Payment, PaymentId, PaymentState, Policy, Refund, RefundKind, Restock, SaleId, SaleShare, SkuId,
};

pub(super) const PAYMENT: PaymentId = PaymentId(7);

pub(super) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

pub(super) fn usd(minor: i64) -> Money {
    Money::new(minor, "USD".parse().expect("known"))
}

pub(super) fn policy() -> Policy {
    Policy {
        hold: TimeDelta::minutes(15),
        capture_margin: TimeDelta::seconds(30),
        pending_hold: TimeDelta::days(3),
        attempts: 5,
        intent: Intent::Capture,
    }
}

pub(super) fn order(intent: Intent) -> Order {
    let created = Created { provider_order_id: "PO".into(), approve_url: "https://pay.example/PO".into() };
    let payment = Payment {
        id: PAYMENT,
        provider: "fake".into(),
        intent,
        state: PaymentState::Created,
        announced: Some(created),
        created_at: at(0),
        check_at: None,
        checks: 0,
        facts: Vec::new(),
    };
    let part = Part {
        part: 0,
        line: 0,
        sku_id: SkuId(1),
        quantity: 2,
        unit_price_minor: 500,
        state: PartState::Held,
        split_of: None,
        share: None,
    };
    Order {
        id: OrderId(1),
        version: 1,
        last_event: 1,
        status: OrderStatus::AwaitingPayment,
        hold_reason: None,
        service: None,
        deadline: at(900),
        hold_ends_at: None,
        created_at: at(0),
        total: usd(1_000),
        shipping_minor: 0,
        email: "ann@shop.example".parse().expect("an address"),
        ship_to: Address {
            name: "Ann".into(),
            line1: "1 Main St".into(),
            line2: None,
            city: "Springfield".into(),
            region: None,
            postal_code: "62701".into(),
            country: "US".into(),
        },
        parts: vec![part],
        payments: vec![payment],
        refunds: Vec::new(),
        tasks: Vec::new(),
        shipments: Vec::new(),
        returns: Vec::new(),
    }
}

pub(super) fn fact(kind: FactKind, id: &str, status: FactStatus, minor: i64, seconds: i64) -> Fact {
    let of_capture = matches!(kind, FactKind::Refund | FactKind::Dispute);
    Fact {
        kind,
        object_id: id.to_owned(),
        status,
        amount: Some(usd(minor)),
        reference: Some(PAYMENT.to_string()),
        parent: of_capture.then(|| "CAP".to_owned()),
        at: at(seconds),
    }
}

/// Everything that can be said of one payment, each word with the provider's time of it.
fn words() -> Vec<Fact> {
    use FactKind as Kind;
    use FactStatus as Status;
    vec![
        fact(Kind::Order, "PO", Status::Approved, 1_000, 1),
        fact(Kind::Capture, "CAP", Status::Pending, 1_000, 2),
        fact(Kind::Capture, "CAP", Status::Declined, 1_000, 3),
        fact(Kind::Capture, "CAP", Status::Completed, 1_000, 4),
        fact(Kind::Capture, "CAP2", Status::Completed, 1_000, 5),
        fact(Kind::Capture, "CAP3", Status::Completed, 300, 5),
        fact(Kind::Refund, "REF", Status::Completed, 400, 6),
        fact(Kind::Capture, "CAP", Status::PartiallyRefunded, 1_000, 6),
        fact(Kind::Dispute, "DIS", Status::Open, 1_000, 7),
        fact(Kind::Capture, "CAP", Status::Reversed, 1_000, 8),
        fact(Kind::Dispute, "DIS", Status::Won, 1_000, 9),
        fact(Kind::Dispute, "DIS", Status::Lost, 1_000, 9),
        fact(Kind::Capture, "CAP", Status::Completed, 1_000, 10),
        fact(Kind::Authorisation, "AUTH", Status::Created, 1_000, 2),
        fact(Kind::Authorisation, "AUTH", Status::Voided, 1_000, 8),
        fact(Kind::Capture, "CAP", Status::PartiallyReversed, 1_000, 8),
        fact(Kind::Dispute, "DIS", Status::Lost, 300, 11),
    ]
}

fn tell(order: &Order, facts: Vec<Fact>) -> Order {
    let policy = policy();
    let mut draft = Draft::new(order, at(20), &policy, 100 * i64::from(order.version)..i64::MAX);
    assert!(draft.learn(PAYMENT, facts).is_empty(), "the hold lives: nothing asks for stock");
    draft.follow_up();
    draft.finish().0
}

fn is_sound(order: &Order, told: &[&Fact]) {
    let told: Vec<String> =
        told.iter().map(|fact| format!("{} {} {} at {}", fact.kind, fact.object_id, fact.status, fact.at)).collect();
    for capture in order.captures() {
        let came = capture.amount.map_or(0, |amount| amount.minor);
        let ours = |refund: &&Refund| refund.capture_id == capture.capture_id && refund.is_live();
        let back: i64 = order.refunds.iter().filter(ours).map(|refund| refund.amount.minor).sum();
        assert!(back <= came, "{back} of {came} goes back after {told:?}");
    }
    let comes = order.payments.iter().any(|payment| payment.state == PaymentState::Pending);
    let reserved = comes || order.authorised().is_some();
    match order.status {
        OrderStatus::AwaitingPayment => {
            assert!(order.kept_minor() < 1_000, "it is paid and waits after {told:?}");
        }
        OrderStatus::Confirmed => {
            let gave_itself = order.refunds.iter().any(|refund| refund.kind == RefundKind::Mirrored);
            assert!(
                order.is_paid() || reserved || order.hold_reason.is_some(),
                "it is confirmed without money after {told:?}"
            );
            assert!(order.kept_minor() <= order.due_minor() || gave_itself, "{told:?}");
        }
        OrderStatus::Cancelling | OrderStatus::Cancelled => {
            assert_eq!(order.kept_minor(), 0, "money stays after {told:?}");
            assert!(order.parts.iter().all(|part| part.state == PartState::Released));
        }
        OrderStatus::Expired | OrderStatus::Completed => panic!("{} after {told:?}", order.status),
    }
}

#[test]
fn any_three_words_in_any_order_say_the_same_of_the_money() {
    let words = words();
    let mut tried = 0;
    let in_a_sale = Some(SaleShare { sale_id: SaleId(1), customer: None });
    for (intent, share) in [(Intent::Capture, None), (Intent::Authorise, None), (Intent::Capture, in_a_sale)] {
        let mut fresh = order(intent);
        fresh.parts[0].share = share;
        for (a, b, c) in (0..words.len()).flat_map(|a| (0..a).flat_map(move |b| (0..b).map(move |c| (a, b, c)))) {
            let mut known: Option<Vec<Capture>> = None;
            for three in [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]] {
                let told = three.map(|word| &words[word]);
                let one_by_one = told.iter().fold(fresh.clone(), |order, word| tell(&order, vec![(*word).clone()]));
                is_sound(&one_by_one, &told);
                let at_once = tell(&fresh, told.map(Clone::clone).to_vec());
                is_sound(&at_once, &told);
                let again = tell(&one_by_one, told.map(Clone::clone).to_vec());
                assert_eq!((again.last_event, again.status), (one_by_one.last_event, one_by_one.status), "told twice");
                for order in [one_by_one, at_once] {
                    let captures = known.get_or_insert_with(|| order.captures());
                    assert_eq!(*captures, order.captures(), "{told:?}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 10_000, "{tried}");
}

#[test]
fn what_was_bought_in_a_sale_waits_for_no_slow_payment() {
    let words = words();
    let mut fresh = order(Intent::Capture);
    fresh.parts[0].share = Some(SaleShare { sale_id: SaleId(1), customer: None });
    let slow = tell(&fresh, vec![words[1].clone()]);
    assert_eq!((slow.status, slow.parts[0].state), (OrderStatus::Cancelled, PartState::Released));
    let back = tell(&slow, vec![words[3].clone()]);
    assert_eq!((back.kept_minor(), back.refunds[0].amount), (0, usd(1_000)));
    // also where it was over before anybody knew
    let mut expired = fresh.clone();
    (expired.status, expired.parts[0].state) = (OrderStatus::Expired, PartState::Expired);
    let back = tell(&tell(&expired, vec![words[1].clone()]), vec![words[3].clone()]);
    assert_eq!((back.status, back.refunds[0].amount), (OrderStatus::Expired, usd(1_000)));
}

#[test]
fn goods_leave_with_the_money_in_hand() {
    let (policy, words) = (policy(), words());
    let reserved = tell(&order(Intent::Authorise), vec![words[13].clone()]);
    let mut draft = Draft::new(&reserved, at(30), &policy, 5_000..6_000);
    assert_eq!(draft.money_for_goods(), Funds::OnItsWay);
    assert_eq!(draft.money_for_goods(), Funds::OnItsWay, "asked twice, asked for once");
    assert_eq!(draft.changes.tasks.len(), 1);
    let paid = tell(&draft.finish().0, vec![words[3].clone()]);
    assert_eq!(Draft::new(&paid, at(30), &policy, 7_000..8_000).money_for_goods(), Funds::Here);
    let gone = tell(&paid, vec![words[9].clone()]);
    assert_eq!(Draft::new(&gone, at(30), &policy, 9_000..9_900).money_for_goods(), Funds::Gone);
}

/// The renewed hold is for the charge that is under way, whatever is heard of another attempt.
#[test]
fn an_older_attempts_bad_news_does_not_end_the_hold_that_was_renewed_for_a_charge() {
    let (mut order, second, policy) = (order(Intent::Capture), PaymentId(8), policy());
    order.payments[0].state = PaymentState::Declined;
    order.payments.push(Payment { id: second, state: PaymentState::Approved, ..order.payments[0].clone() });
    let mut draft = Draft::new(&order, at(901), &policy, 100..200);
    draft.fall_due();
    draft.restocked(&Restock::LateApproval { payment_id: second }, Some(policy.hold));
    draft.declined(PAYMENT, "no funds");
    assert_eq!(draft.order.status, OrderStatus::AwaitingPayment, "the second is being charged");
    draft.declined(second, "no funds");
    assert_eq!(draft.order.status, OrderStatus::Expired, "and has come to nothing");
}
