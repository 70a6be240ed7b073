//! What is done about an order's money, told as short stories: nothing is given back twice, nothing kept that is owed,
//! whatever is said late, twice, out of order or not at all.

use super::{
    Draft,
    tests::{PAYMENT, at, fact, order, policy, usd},
};
use crate::domain::{
    About, Command, Fact, FactKind, FactStatus, Intent, Order, OrderStatus, Parcel, Part, PartState, PaymentState,
    ProviderError, Refund, RefundId, RefundKind, RefundState, RefundWish, Refusal, Service, Shipment, ShipmentId,
    ShipmentLine, ShipmentState, SkuId, Standing, Task, TaskKind, Units, Void,
};

/// An order of two lines of one unit each, 500 a unit, and what becomes of it.
struct Story {
    order: Order,
    now: i64,
}

impl Story {
    /// Placed and not paid.
    fn begins(intent: Intent) -> Self {
        let mut order = order(intent);
        order.parts[0].quantity = 1;
        let second = Part { part: 1, line: 1, sku_id: SkuId(2), ..order.parts[0].clone() };
        order.parts.push(second);
        Self { order, now: 20 }
    }

    /// Paid with one capture of all.
    fn paid() -> Self {
        let mut story = Self::begins(Intent::Capture);
        story.is_told(vec![captured("CAP", FactStatus::Completed, 1_000, 4)]);
        assert_eq!(story.order.status, OrderStatus::Confirmed);
        story
    }

    /// Confirmed, its money reserved.
    fn reserved() -> Self {
        let mut story = Self::begins(Intent::Authorise);
        story.is_told(vec![fact(FactKind::Authorisation, "AUTH", FactStatus::Created, 1_000, 4)]);
        assert_eq!(story.order.status, OrderStatus::Confirmed);
        story
    }

    /// One decision, as the order's actor makes it; what it comes to is sound every time.
    fn decides<R>(&mut self, decision: impl FnOnce(&mut Draft<'_>) -> R) -> R {
        self.now += 1;
        let policy = policy();
        let mut draft = Draft::new(&self.order, at(self.now), &policy, self.now * 1_000..(self.now + 1) * 1_000);
        let answer = decision(&mut draft);
        draft.follow_up();
        self.order = draft.finish().0;
        self.is_sound();
        answer
    }

    /// Never more goes back of a capture than can, but for what was given or taken at the provider.
    fn is_sound(&self) {
        for capture in self.order.captures() {
            let of = |refund: &&Refund| refund.capture_id == capture.capture_id && refund.is_live();
            let live = || self.order.refunds.iter().filter(of);
            let back: i64 = live().map(|refund| refund.amount.minor).sum();
            let can_wait = live().any(Refund::waits);
            let limit = self.order.refundable_of(&capture);
            assert!(!can_wait || back <= limit, "{back} of {limit} goes back: {:#?}", self.order.refunds);
        }
    }

    fn is_told(&mut self, facts: Vec<Fact>) {
        assert!(self.decides(|draft| draft.learn(PAYMENT, facts)).is_empty(), "it asks for stock");
    }

    fn staff(&mut self, command: Command) -> Result<i64, Refusal> {
        self.decides(|draft| draft.carry_out(&command))
    }

    fn refund(&mut self, what: RefundWish) -> RefundId {
        self.staff(Command::Refund { what, reason: "broken".into() }).expect("it is there");
        self.order.refunds.last().expect("just asked for").id
    }

    fn call_off(&mut self, lines: Option<Vec<Units>>) {
        self.staff(Command::Cancel { lines, reason: "not wanted".into() }).expect("it can be called off");
    }

    fn task(&self, kind: TaskKind) -> Option<Task> {
        self.order.tasks.iter().find(|task| task.kind == kind).cloned()
    }

    /// The call about this refund is answered.
    fn is_answered(&mut self, refund_id: RefundId, facts: Vec<Fact>) {
        let asks = |task: &&Task| task.about == About::Refund(PAYMENT, refund_id);
        let task_id = self.order.tasks.iter().find(asks).expect("it is asked for").id;
        self.decides(|draft| draft.answered(task_id, facts));
    }

    /// Every refund that is asked for is done, each under its own name.
    fn gives_all_back(&mut self) {
        while let Some(refund) = self.order.refunds.iter().find(|refund| refund.waits()).cloned() {
            let told = ours(&refund, &format!("REF{}", refund.id.0), FactStatus::Completed, self.now);
            self.is_answered(refund.id, vec![told]);
        }
    }

    /// Line 1 waits in a parcel with a label.
    fn labelled(mut self) -> Self {
        let service = Service { provider: "parcels".into(), ..self.order.chosen_service() };
        self.order.shipments.push(Shipment {
            id: ShipmentId(50),
            state: ShipmentState::Labelled,
            lines: vec![ShipmentLine { line: 1, sku_id: SkuId(2), quantity: 1 }],
            service,
            parcel: Parcel { length_mm: 1, width_mm: 1, height_mm: 1, grams: 1 },
            customs: None,
            waits: None,
            label_id: Some("LABEL".into()),
            carrier: None,
            tracking_number: None,
            tracking_url: None,
            file_url: None,
            cost: None,
            error: None,
            doubt_until: None,
            created_at: at(10),
            bought_at: Some(at(10)),
            left_at: None,
            news_at: at(10),
            check_at: None,
            checks: 0,
            facts: Vec::new(),
        });
        self
    }

    fn void_is(&mut self, void: Void) {
        let task = self.task(TaskKind::VoidLabel).expect("the carrier is asked");
        self.decides(|draft| draft.void_answered(&task, void));
    }

    /// What went back, or is going, of its own wish or at the provider.
    fn back(&self) -> i64 {
        self.order.refunds.iter().filter(|refund| refund.is_live()).map(|refund| refund.amount.minor).sum()
    }

    fn refunds(&self) -> Vec<(RefundKind, i64, RefundState)> {
        self.order.refunds.iter().map(|refund| (refund.kind, refund.amount.minor, refund.state)).collect()
    }

    fn state_of(&self, refund_id: RefundId) -> RefundState {
        self.order.refunds.iter().find(|refund| refund.id == refund_id).expect("it is there").state
    }

    fn hold(&self) -> Option<&str> {
        self.order.hold_reason.as_deref()
    }
}

fn captured(id: &str, status: FactStatus, minor: i64, seconds: i64) -> Fact {
    fact(FactKind::Capture, id, status, minor, seconds)
}

/// A refund that the provider made for us, and calls as we did.
fn ours(refund: &Refund, id: &str, status: FactStatus, seconds: i64) -> Fact {
    Fact {
        reference: Some(refund.id.to_string()),
        parent: Some(refund.capture_id.clone()),
        ..fact(FactKind::Refund, id, status, refund.amount.minor, seconds)
    }
}

/// One that was made there, and is called what its payment is.
fn by_hand(id: &str, status: FactStatus, minor: i64, seconds: i64) -> Fact {
    fact(FactKind::Refund, id, status, minor, seconds)
}

fn disputed(status: FactStatus, minor: i64, seconds: i64) -> Fact {
    fact(FactKind::Dispute, "DIS", status, minor, seconds)
}

fn line(line: i32) -> Vec<Units> {
    vec![Units { line, quantity: 1 }]
}

// ── what was refunded is not refunded again ──────────────────────────────────────────────────────────────────────────

#[test]
fn a_line_that_was_refunded_and_called_off_is_paid_back_once_whatever_the_bank_does() {
    let mut story = Story::paid();
    story.refund(RefundWish::Lines(line(0)));
    story.gives_all_back();
    story.call_off(Some(line(0)));
    assert_eq!(story.back(), 500, "its price is back already");
    story.order.parts[1].state = PartState::Shipped;
    story.is_told(vec![captured("CAP", FactStatus::Reversed, 1_000, 40)]);
    story.is_told(vec![captured("CAP", FactStatus::Completed, 1_000, 50)]);
    assert_eq!((story.back(), story.order.paid_minor(), story.order.due_minor()), (500, 500, 500));
}

#[test]
fn units_are_refunded_or_called_off_never_both() {
    let mut story = Story::paid();
    story.call_off(Some(line(0)));
    let again = story.staff(Command::Refund { what: RefundWish::Lines(line(0)), reason: "x".into() });
    assert!(matches!(again, Err(Refusal::RefundExceeds { left: 0, .. })), "{again:?}");

    // nor was a line paid for that was called off before its money was taken
    let mut story = Story::reserved();
    story.call_off(Some(line(0)));
    story.is_told(vec![captured("CAP", FactStatus::Completed, 500, 30)]);
    let never = story.staff(Command::Refund { what: RefundWish::Lines(line(0)), reason: "x".into() });
    assert!(matches!(never, Err(Refusal::RefundExceeds { left: 0, .. })), "{never:?}");
    assert_eq!(story.back(), 0);
}

#[test]
fn the_rest_of_a_cancel_gives_back_what_was_paid_and_not_given_back() {
    // called off before its money was taken: never paid for
    let mut story = Story::reserved();
    story.call_off(Some(line(0)));
    story.is_told(vec![captured("CAP", FactStatus::Completed, 500, 30)]);
    let mut story = story.labelled();
    story.call_off(None);
    story.void_is(Void::Rejected);
    assert_eq!((story.order.status, story.back()), (OrderStatus::Confirmed, 0));

    // refunded before: not again
    let mut story = Story::paid().labelled();
    story.refund(RefundWish::Lines(line(0)));
    story.call_off(None);
    story.void_is(Void::Rejected);
    assert_eq!((story.order.status, story.back()), (OrderStatus::Confirmed, 500));
}

#[test]
fn money_of_what_came_free_goes_back_at_once_and_the_rest_when_the_carrier_has_decided() {
    let mut story = Story::paid().labelled();
    story.call_off(None);
    assert_eq!((story.order.status, story.back()), (OrderStatus::Cancelling, 500));
    story.gives_all_back();
    assert_eq!(story.order.status, OrderStatus::Cancelling, "the carrier decides");
    story.void_is(Void::Done);
    assert_eq!(story.back(), 1_000);
    story.gives_all_back();
    assert_eq!((story.order.status, story.back()), (OrderStatus::Cancelled, 1_000));
}

#[test]
fn a_label_that_its_carrier_keeps_is_written_off_by_who_has_seen_the_parcel() {
    let mut story = Story::paid().labelled();
    let parcel = ShipmentId(50);
    let too_early = story.staff(Command::WriteOff { shipment_id: parcel });
    assert!(matches!(too_early, Err(Refusal::NotNow { .. })), "{too_early:?}");
    story.call_off(None);
    story.void_is(Void::Rejected);
    assert_eq!((story.order.status, story.back()), (OrderStatus::Confirmed, 500), "it may be on its way");
    for _ in 0..2 {
        story.staff(Command::WriteOff { shipment_id: parcel }).expect("its carrier has refused");
    }
    story.call_off(None);
    story.gives_all_back();
    assert_eq!((story.order.status, story.back()), (OrderStatus::Cancelled, 1_000));
}

#[test]
fn a_cancel_that_comes_to_nothing_tells_the_buyer_so_and_names_no_line() {
    let mut story = Story::paid().labelled();
    story.order.shipments[0].lines.push(ShipmentLine { line: 0, sku_id: SkuId(1), quantity: 1 });
    story.call_off(None);
    let task = story.task(TaskKind::VoidLabel).expect("the carrier is asked");
    let told = story.decides(|draft| {
        draft.void_answered(&task, Void::Rejected);
        draft.follow_up();
        draft.changes.events.iter().map(|event| event.kind).collect::<Vec<_>>()
    });
    assert!(told.contains(&"not_cancelled") && !told.contains(&"lines_cancelled"), "{told:?}");
    assert_eq!((story.order.status, story.back()), (OrderStatus::Confirmed, 0));
}

// ── whose refund it is ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_refund_made_at_the_provider_is_not_taken_for_ours_of_the_same_amount() {
    let mut story = Story::paid();
    let asked = story.refund(RefundWish::Amount(usd(300)));
    story.is_told(vec![by_hand("HAND", FactStatus::Completed, 300, 30)]);
    assert_eq!(story.state_of(asked), RefundState::Requested, "nobody has answered ours");
    assert_eq!(story.order.refunds[1].kind, RefundKind::Mirrored);
    // nor by its own call's answer, where that only says what is there
    story.is_answered(asked, vec![by_hand("HAND", FactStatus::Completed, 300, 30)]);
    assert_eq!((story.state_of(asked), story.back()), (RefundState::Cancelled, 300));
}

#[test]
fn a_webhook_that_names_ours_answers_it() {
    let mut story = Story::paid();
    let asked = story.refund(RefundWish::Amount(usd(300)));
    let told = ours(&story.order.refunds[0], "REF", FactStatus::Completed, 30);
    story.is_told(vec![told.clone()]);
    story.is_answered(asked, vec![Fact { amount: None, ..told }]);
    assert_eq!(story.refunds(), [(RefundKind::Amount, 300, RefundState::Completed)]);
}

#[test]
fn a_refund_that_was_mirrored_before_it_had_a_name_is_ours_after_all() {
    let mut story = Story::paid();
    let asked = story.refund(RefundWish::Amount(usd(300)));
    story.is_told(vec![by_hand("REF", FactStatus::Completed, 300, 30)]);
    let named = ours(&story.order.refunds[0], "REF", FactStatus::Completed, 30);
    story.is_answered(asked, vec![named]);
    assert_eq!((story.state_of(asked), story.back()), (RefundState::Completed, 300));
}

#[test]
fn a_refund_that_went_out_although_it_was_called_off_is_counted() {
    let mut story = Story::paid();
    let first = story.refund(RefundWish::Amount(usd(300)));
    let second = story.refund(RefundWish::Amount(usd(300)));
    story.is_told(vec![by_hand("HAND", FactStatus::Completed, 500, 30)]);
    assert_eq!((story.state_of(second), story.back()), (RefundState::Cancelled, 1_000));
    let late = ours(&story.order.refunds[1], "REF", FactStatus::Completed, 31);
    story.is_told(vec![late]);
    assert_eq!((story.state_of(second), story.back()), (RefundState::Completed, 1_000));
    assert_eq!(story.state_of(first), RefundState::Cancelled, "now that is cut");
    story.gives_all_back();
    assert_eq!(story.back(), 1_000);
    let waits = story.order.refunds.iter().filter(|refund| refund.state == RefundState::SetAside);
    assert_eq!(waits.map(|refund| refund.amount.minor).sum::<i64>(), 100, "of 600 owed beside the 500");
}

#[test]
fn a_refund_that_failed_and_went_through_after_all_is_not_given_twice() {
    let mut story = Story::paid();
    let asked = story.refund(RefundWish::Amount(usd(300)));
    let told = |story: &Story, status, seconds| vec![ours(&story.order.refunds[0], "REF", status, seconds)];
    story.is_answered(asked, told(&story, FactStatus::Pending, 30));
    story.is_told(told(&story, FactStatus::Failed, 31));
    assert_eq!(story.order.refunds[1].state, RefundState::Requested, "it is owed again");
    story.is_told(told(&story, FactStatus::Completed, 32));
    assert_eq!(story.back(), 300);
    // a late word changes nothing
    story.is_told(told(&story, FactStatus::Pending, 29));
    assert_eq!((story.state_of(asked), story.back()), (RefundState::Completed, 300));
}

#[test]
fn an_older_word_about_what_the_provider_took_and_gave_back_is_not_believed() {
    let mut story = Story::paid();
    story.is_told(vec![by_hand("REV", FactStatus::Cancelled, 1_000, 40)]);
    story.is_told(vec![by_hand("REV", FactStatus::Completed, 1_000, 30)]);
    assert_eq!(story.back(), 0);
}

// ── what banks take ──────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_dispute_lost_in_part_cuts_what_was_going_back() {
    for words in [vec![disputed(FactStatus::Open, 300, 30)], vec![]] {
        let mut story = Story::paid();
        story.order.parts[0].state = PartState::Shipped;
        story.refund(RefundWish::Full);
        story.is_told(words);
        story.is_told(vec![disputed(FactStatus::Lost, 300, 31)]);
        assert_eq!((story.back(), story.hold()), (700, Some("reversed")));
        // won after all: what was set aside is owed again
        story.is_told(vec![disputed(FactStatus::Won, 300, 32)]);
        assert_eq!((story.back(), story.hold()), (1_000, None));
    }
}

#[test]
fn a_part_that_shows_as_refund_and_as_lost_dispute_is_gone_once() {
    let mut story = Story::paid();
    story.is_told(vec![
        by_hand("REV", FactStatus::Completed, 300, 30),
        captured("CAP", FactStatus::PartiallyReversed, 1_000, 30),
        disputed(FactStatus::Lost, 300, 30),
    ]);
    assert_eq!((story.order.kept_minor(), story.hold()), (700, Some("reversed")));
    story.call_off(None);
    assert_eq!(story.back(), 1_000, "the 300 that were taken, and the rest");
}

#[test]
fn a_part_that_is_taken_back_holds_what_has_not_left_until_it_is_here_again() {
    let mut story = Story::paid();
    let (cut, taken) = (FactStatus::PartiallyReversed, FactStatus::Completed);
    story.is_told(vec![by_hand("REV", taken, 300, 30), captured("CAP", cut, 1_000, 30)]);
    assert_eq!((story.order.status, story.hold()), (OrderStatus::Confirmed, Some("reversed")));
    story.is_told(vec![by_hand("REV", FactStatus::Cancelled, 300, 40), captured("CAP", taken, 1_000, 40)]);
    assert_eq!((story.order.status, story.hold(), story.back()), (OrderStatus::Confirmed, None, 0));
}

#[test]
fn a_refund_that_the_bank_bars_ends_by_itself_and_is_owed_again_when_the_bank_gives_in() {
    let mut story = Story::paid();
    let (cut, taken) = (FactStatus::PartiallyReversed, FactStatus::Completed);
    story.is_told(vec![by_hand("REV", taken, 300, 30), captured("CAP", cut, 1_000, 30)]);
    story.call_off(None);
    let task = story.task(TaskKind::Refund).expect("700 are asked for");
    story.decides(|draft| draft.task_failed(task.id, &ProviderError::TakenBack("CHARGEBACK".into())));
    assert_eq!((story.order.status, story.back()), (OrderStatus::Cancelled, 300));
    assert!(story.order.tasks.is_empty(), "nobody asks for ever");
    story.is_told(vec![by_hand("REV", FactStatus::Cancelled, 300, 40), captured("CAP", taken, 1_000, 40)]);
    assert_eq!(story.back(), 1_000, "all of it, once");
}

#[test]
fn a_refusal_is_told_once_whatever_was_answered_before() {
    let mut story = Story::paid();
    story.refund(RefundWish::Amount(usd(400)));
    let task = story.task(TaskKind::Refund).expect("it is asked for");
    let no_answer = ProviderError::Unknown { reason: "cut".into(), retry_after: None };
    let refused = ProviderError::Rejected("REFUND_NOT_ALLOWED".into());
    for (error, told) in [(&no_answer, 0), (&refused, 1), (&no_answer, 0), (&refused, 0)] {
        let lines = story.decides(|draft| {
            draft.task_failed(task.id, error);
            draft.changes.events.iter().filter(|event| event.kind == "refund_refused").count()
        });
        assert_eq!(lines, told, "{error}");
    }
}

#[test]
fn a_buyer_who_asks_again_has_the_announcement_tried_again_at_once() {
    let mut story = Story::begins(Intent::Capture);
    story.order.payments.clear();
    let payment_id = story.decides(|draft| draft.pay("paypal")).expect("nothing is open");
    let task = story.task(TaskKind::CreatePayment).expect("it is announced");
    for _ in 0..9 {
        let no_answer = ProviderError::Unknown { reason: "cut".into(), retry_after: None };
        story.decides(|draft| draft.task_failed(task.id, &no_answer));
    }
    assert!(story.task(TaskKind::CreatePayment).expect("it is open").due_at > at(story.now + 60));
    assert_eq!(story.decides(|draft| draft.pay("paypal")).ok(), Some(payment_id));
    assert_eq!(story.task(TaskKind::CreatePayment).expect("it is open").due_at, at(story.now));
}

#[test]
fn a_pending_refund_that_fails_after_the_bank_took_the_rest_ends_by_itself() {
    for at_once in [true, false] {
        let mut story = Story::paid();
        let asked = story.refund(RefundWish::Amount(usd(400)));
        let told = |story: &Story, status, seconds| ours(&story.order.refunds[0], "REF", status, seconds);
        story.is_answered(asked, vec![told(&story, FactStatus::Pending, 30)]);
        let reversed =
            [by_hand("REV", FactStatus::Completed, 600, 31), captured("CAP", FactStatus::Reversed, 1_000, 31)];
        let failed = [told(&story, FactStatus::Failed, 32), captured("CAP", FactStatus::PartiallyReversed, 1_000, 32)];
        if at_once {
            story.is_told([reversed, failed].concat());
        } else {
            story.is_told(reversed.to_vec());
            story.is_told(failed.to_vec());
        }
        while let Some(task) = story.task(TaskKind::Refund) {
            story.decides(|draft| draft.task_failed(task.id, &ProviderError::TakenBack("CHARGEBACK".into())));
        }
        assert_eq!((story.order.status, story.back()), (OrderStatus::Cancelled, 600), "{:#?}", story.order.refunds);
    }
}

#[test]
fn a_refund_that_a_reversal_ended_is_owed_again_when_the_money_is_back() {
    let mut story = Story::paid();
    for part in &mut story.order.parts {
        part.state = PartState::Shipped;
    }
    story.refund(RefundWish::Lines(line(0)));
    story.is_told(vec![captured("CAP", FactStatus::Reversed, 1_000, 30)]);
    assert_eq!(story.back(), 0);
    for _ in 0..2 {
        story.is_told(vec![captured("CAP", FactStatus::Completed, 1_000, 40)]);
        assert_eq!(story.back(), 500, "what came back was to be paid for");
    }
}

#[test]
fn a_reversal_leaves_the_reason_for_which_staff_hold_an_order() {
    let mut story = Story::paid();
    story.order.parts[0].state = PartState::Shipped;
    story.staff(Command::Hold { reason: "address".into() }).expect("it can be held");
    story.is_told(vec![captured("CAP", FactStatus::Reversed, 1_000, 30)]);
    assert_eq!(story.hold(), Some("address"));
    story.is_told(vec![captured("CAP", FactStatus::Completed, 1_000, 40)]);
    assert_eq!(story.hold(), Some("address"));
}

#[test]
fn staff_who_let_go_what_they_held_do_not_overrule_a_dispute() {
    let mut story = Story::paid();
    story.staff(Command::Hold { reason: "address".into() }).expect("it can be held");
    story.is_told(vec![disputed(FactStatus::Open, 1_000, 30)]);
    story.staff(Command::Release).expect("it is held");
    assert_eq!(story.hold(), Some("disputed"));
    story.staff(Command::Release).expect("it is held");
    assert_eq!(story.hold(), None, "now they know");
}

#[test]
fn a_reason_of_the_money_that_another_hid_holds_the_order_when_that_is_gone() {
    // whichever comes first
    for staff_first in [true, false] {
        let mut story = Story::paid();
        let hold = |story: &mut Story| story.staff(Command::Hold { reason: "address".into() }).expect("it can be held");
        if staff_first {
            hold(&mut story);
        }
        let part =
            [by_hand("REV", FactStatus::Completed, 300, 30), captured("CAP", FactStatus::PartiallyReversed, 1_000, 30)];
        story.is_told(part.to_vec());
        if !staff_first {
            hold(&mut story);
        }
        story.staff(Command::Release).expect("it is held");
        assert_eq!(story.hold(), Some("reversed"), "staff first: {staff_first}");
        story.staff(Command::Release).expect("it is held");
        assert_eq!(story.hold(), None, "now they know");
    }
}

#[test]
fn staff_who_overrule_one_reason_after_the_other_come_to_an_end() {
    let mut story = Story::paid();
    story.is_told(vec![disputed(FactStatus::Open, 300, 30)]);
    let part =
        [by_hand("REV", FactStatus::Completed, 300, 31), captured("CAP", FactStatus::PartiallyReversed, 1_000, 31)];
    story.is_told(part.to_vec());
    let mut seen = Vec::new();
    while let Some(reason) = story.hold().map(str::to_owned) {
        assert!(!seen.contains(&reason), "{reason} after {seen:?}");
        seen.push(reason);
        story.staff(Command::Release).expect("it is held");
    }
    assert_eq!(seen.last().map(String::as_str), Some("disputed"));
}

#[test]
fn money_that_is_back_while_a_carrier_decides_waits_for_what_it_decides() {
    let mut story = Story::paid().labelled();
    story.is_told(vec![captured("CAP", FactStatus::Reversed, 1_000, 30)]);
    assert_eq!(story.order.status, OrderStatus::Cancelling);
    story.is_told(vec![captured("CAP", FactStatus::Completed, 1_000, 40)]);
    assert_eq!(story.back(), 500, "of the line that came free");
    story.void_is(Void::Rejected);
    assert_eq!((story.order.status, story.back()), (OrderStatus::Confirmed, 500), "the other one goes to its buyer");
}

// ── what is reserved ─────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn more_than_was_reserved_is_kept_as_far_as_the_order_costs() {
    let mut story = Story::reserved();
    story.is_told(vec![captured("CAP", FactStatus::Completed, 1_100, 30)]);
    assert_eq!(story.refunds(), [(RefundKind::Correction, 100, RefundState::Requested)]);
    assert_eq!((story.order.status, story.order.is_paid()), (OrderStatus::Confirmed, true));

    // before anything is sold, another amount than was agreed is not ours
    let mut story = Story::begins(Intent::Capture);
    story.is_told(vec![captured("CAP", FactStatus::Completed, 1_100, 30)]);
    assert_eq!((story.order.status, story.back()), (OrderStatus::AwaitingPayment, 1_100));
}

#[test]
fn money_that_comes_while_a_carrier_decides_is_kept_for_what_may_leave() {
    let mut story = Story::paid().labelled();
    story.call_off(None);
    assert_eq!(story.back(), 500);
    story.is_told(vec![captured("CAP2", FactStatus::Completed, 1_000, 30)]);
    assert_eq!(story.back(), 1_500, "the second charge has nothing to pay for");
    story.void_is(Void::Rejected);
    assert_eq!((story.order.status, story.back()), (OrderStatus::Confirmed, 1_500));
}

#[test]
fn the_rest_of_an_authorisation_is_let_go_when_nothing_wants_it() {
    let voided = || vec![fact(FactKind::Authorisation, "AUTH", FactStatus::Voided, 1_000, 60)];
    // taken in part at the provider, then called off
    let mut story = Story::reserved();
    story.is_told(vec![captured("CAP", FactStatus::Completed, 400, 30)]);
    assert_eq!((story.hold(), story.task(TaskKind::Void).is_some()), (Some("partially_paid"), false));
    story.call_off(None);
    story.gives_all_back();
    let task = story.task(TaskKind::Void).expect("the rest is let go");
    assert_eq!(story.order.status, OrderStatus::Cancelling);
    story.decides(|draft| draft.answered(task.id, voided()));
    assert_eq!((story.order.status, story.back()), (OrderStatus::Cancelled, 400));

    // taken in parts until all is paid
    let mut story = Story::reserved();
    story.is_told(vec![
        captured("CAP", FactStatus::Completed, 400, 30),
        captured("CAP2", FactStatus::Completed, 600, 31),
    ]);
    let task = story.task(TaskKind::Void).expect("nothing more is wanted");
    story.is_told(voided());
    assert!(story.task(TaskKind::Void).is_none(), "{task:?} has nothing left to ask");

    // taken whole by us: there is no rest
    let mut story = Story::reserved();
    let used = fact(FactKind::Authorisation, "AUTH", FactStatus::Completed, 1_000, 30);
    story.is_told(vec![captured("CAP", FactStatus::Completed, 1_000, 30), used]);
    assert!(story.order.tasks.is_empty());
}

#[test]
fn a_void_that_a_webhook_tells_of_is_asked_for_no_more() {
    let mut story = Story::reserved();
    story.call_off(None);
    assert_eq!((story.order.status, story.task(TaskKind::Void).is_some()), (OrderStatus::Cancelling, true));
    story.is_told(vec![fact(FactKind::Authorisation, "AUTH", FactStatus::Voided, 1_000, 30)]);
    assert_eq!((story.order.status, story.order.tasks.len()), (OrderStatus::Cancelled, 0));
}

#[test]
fn a_capture_that_a_webhook_tells_of_is_asked_for_no_more() {
    let mut story = Story::reserved();
    story.staff(Command::Capture).expect("it is reserved");
    assert!(story.task(TaskKind::CaptureAuthorised).is_some());
    story.is_told(vec![captured("CAP", FactStatus::Completed, 1_000, 30)]);
    assert!(story.task(TaskKind::CaptureAuthorised).is_none());
    assert_eq!(story.order.payments[0].state, PaymentState::Captured);
}

#[test]
fn a_capture_of_our_authorisation_need_not_repeat_our_name() {
    let below = |reference: Option<&str>| Fact {
        reference: reference.map(str::to_owned),
        parent: Some("AUTH".into()),
        ..captured("CAP", FactStatus::Completed, 1_000, 30)
    };
    let mut story = Story::reserved();
    story.is_told(vec![below(None)]);
    assert_eq!((story.order.is_paid(), story.back()), (true, 0));
    let mut story = Story::reserved();
    story.is_told(vec![below(Some("payment_of_somebody_else"))]);
    assert_eq!(story.back(), 1_000);
}

// ── what is said twice ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn one_capture_twice_in_one_answer_is_one_fact() {
    let whole = captured("CAP", FactStatus::Completed, 1_000, 4);
    let bare = Fact { amount: None, ..whole.clone() };
    for answer in [vec![bare.clone(), whole.clone()], vec![whole.clone(), bare.clone()]] {
        let mut story = Story::begins(Intent::Capture);
        let changes = story.decides(|draft| {
            assert!(draft.learn(PAYMENT, answer).is_empty());
            std::mem::take(&mut draft.changes)
        });
        let facts: Vec<_> = changes.facts.iter().map(|(_, fact)| fact.amount).collect();
        assert_eq!(facts, [Some(usd(1_000))], "one row, or none of the entry is written");
        assert!(changes.events.iter().all(|event| event.kind != "needs_review"));
        assert_eq!(story.order.status, OrderStatus::Confirmed);
    }
    // and told of in two answers it is completed by the second
    let mut story = Story::begins(Intent::Capture);
    story.is_told(vec![bare]);
    story.is_told(vec![whole]);
    assert_eq!((story.order.status, story.back()), (OrderStatus::Confirmed, 0));
}

#[test]
fn a_refund_whose_capture_is_told_later_is_mirrored_then() {
    let mut story = Story::paid();
    let whole = by_hand("HAND", FactStatus::Completed, 300, 30);
    story.is_told(vec![Fact { parent: None, ..whole.clone() }]);
    assert_eq!(story.back(), 0);
    story.is_told(vec![whole]);
    assert_eq!(story.back(), 300);
}

// ── anything, in any order ───────────────────────────────────────────────────────────────────────────────────────────

/// The same numbers for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from(mixed >> 33).expect("31 bits") % below
    }

    fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        among[self.roll(among.len())].clone()
    }
}

/// Something that a provider may say, at some time. A refund or a dispute is of one capture, as long as it lives.
fn a_word(dice: &mut Dice, now: i64) -> Fact {
    use FactStatus as Status;
    let seconds = now - i64::try_from(dice.roll(20)).expect("small");
    let id = dice.pick(&["CAP", "CAP2"]);
    match dice.roll(4) {
        0 => {
            let states = [Status::Completed, Status::Completed, Status::PartiallyRefunded, Status::Refunded];
            let taken = [Status::PartiallyReversed, Status::Reversed, Status::Pending];
            captured(id, dice.pick(&[states.as_slice(), &taken].concat()), 1_000, seconds)
        }
        1 => {
            let status = dice.pick(&[Status::Completed, Status::Cancelled, Status::Failed, Status::Pending]);
            let (name, minor) = dice.pick(&[("HAND", 300), ("REV", 700)]);
            Fact { parent: Some(id.into()), ..by_hand(&format!("{name} of {id}"), status, minor, seconds) }
        }
        2 => {
            let status = dice.pick(&[Status::Open, Status::Lost, Status::Won]);
            Fact { object_id: format!("DIS of {id}"), parent: Some(id.into()), ..disputed(status, 400, seconds) }
        }
        _ => {
            let status = dice.pick(&[Status::Created, Status::Voided, Status::Completed]);
            fact(FactKind::Authorisation, "AUTH", status, 1_000, seconds)
        }
    }
}

impl Story {
    fn goes_on(&mut self, dice: &mut Dice) {
        let some_line = line(i32::from(dice.roll(2) == 0));
        match dice.roll(8) {
            0..=2 => {
                let word = a_word(dice, self.now);
                self.is_told(vec![word]);
            }
            3 => {
                let wishes = [RefundWish::Full, RefundWish::Amount(usd(300)), RefundWish::Lines(some_line)];
                let what = dice.pick(&wishes);
                self.staff(Command::Refund { what, reason: "x".into() }).ok();
            }
            4 => {
                let lines = (dice.roll(3) > 0).then_some(some_line);
                self.staff(Command::Cancel { lines, reason: "x".into() }).ok();
            }
            5 if self.order.unpacked(some_line[0].line) > 0 => {
                let sold = |part: &&mut Part| part.line == some_line[0].line && part.state == PartState::Committed;
                self.order.parts.iter_mut().find(sold).expect("it is not packed").state = PartState::Shipped;
                self.decides(|_| ());
            }
            _ => self.a_call_is_answered(dice),
        }
    }

    fn a_call_is_answered(&mut self, dice: &mut Dice) {
        let calls: Vec<Task> =
            self.order.tasks.iter().filter(|task| task.about.payment_id().is_some()).cloned().collect();
        if calls.is_empty() {
            return;
        }
        let task = dice.pick(&calls);
        let refund = self.order.refunds.iter().find(|refund| Some(refund.id) == task.about.refund_id()).cloned();
        let now = self.now;
        match (dice.roll(4), refund) {
            (0, _) => self.decides(|draft| draft.task_failed(task.id, &ProviderError::TakenBack("x".into()))),
            (1, _) => self.decides(|draft| draft.task_failed(task.id, &ProviderError::Rejected("x".into()))),
            (_, Some(refund)) => {
                let status = dice.pick(&[FactStatus::Completed, FactStatus::Pending, FactStatus::Failed]);
                let told = ours(&refund, &format!("REF{}", refund.id.0), status, now);
                self.decides(|draft| draft.answered(task.id, vec![told]));
            }
            (_, None) => {
                let voided = fact(FactKind::Authorisation, "AUTH", FactStatus::Voided, 1_000, now);
                self.decides(|draft| draft.answered(task.id, vec![voided]));
            }
        }
    }

    /// Whatever is still asked for is done, in the end.
    fn comes_to_an_end(&mut self) {
        for _ in 0..40 {
            self.gives_all_back();
            let Some(task) = self.task(TaskKind::Void) else { break };
            let voided = fact(FactKind::Authorisation, "AUTH", FactStatus::Voided, 1_000, self.now + 100);
            self.decides(|draft| draft.answered(task.id, vec![voided]));
        }
        let waits = self.order.refunds.iter().any(Refund::waits);
        assert!(!waits && self.task(TaskKind::Void).is_none(), "it never ends: {:#?}", self.order.tasks);
        // what is disputed is nobody's until that is decided
        let open = self.order.captures().iter().any(|capture| capture.standing == Standing::Disputed);
        if self.order.status == OrderStatus::Cancelled && !open {
            assert_eq!(self.order.kept_minor(), 0, "it is kept: {:#?}", self.order.refunds);
        }
    }
}

#[test]
fn money_that_went_back_by_hand_and_is_here_again_goes_back_where_the_order_is_over() {
    let mut story = Story::reserved();
    story.call_off(None);
    let voided = fact(FactKind::Authorisation, "AUTH", FactStatus::Voided, 1_000, 29);
    story.is_told(vec![voided]);
    story.is_told(vec![by_hand("HAND", FactStatus::Completed, 1_000, 30)]);
    story.is_told(vec![captured("CAP", FactStatus::Completed, 1_000, 30)]);
    assert_eq!((story.order.status, story.order.kept_minor()), (OrderStatus::Cancelled, 0));
    story.is_told(vec![by_hand("HAND", FactStatus::Failed, 1_000, 31)]);
    assert_eq!(story.back(), 1_000, "it is asked for");
}

#[test]
fn a_lost_dispute_that_is_won_after_all_brings_money_that_goes_back_where_the_order_is_over() {
    let mut story = Story::paid();
    let cut = captured("CAP", FactStatus::PartiallyReversed, 1_000, 30);
    story.is_told(vec![disputed(FactStatus::Lost, 400, 30), cut]);
    story.call_off(None);
    story.gives_all_back();
    assert_eq!((story.order.status, story.back()), (OrderStatus::Cancelled, 600));
    story.is_told(vec![disputed(FactStatus::Won, 400, 31)]);
    assert_eq!(story.back(), 1_000);
}

#[test]
fn whatever_is_said_and_done_no_more_goes_back_than_can_and_it_ends() {
    for seed in 0..3_000 {
        let mut dice = Dice(seed);
        let mut story = match seed % 3 {
            0 => Story::paid(),
            1 => Story::paid().labelled(),
            _ => Story::reserved(),
        };
        for _ in 0..14 {
            story.goes_on(&mut dice);
            if seed % 3 == 1 && story.task(TaskKind::VoidLabel).is_some() && dice.roll(3) == 0 {
                story.void_is(dice.pick(&[Void::Done, Void::Rejected]));
            }
        }
        let facts = story.order.payments[0].facts.clone();
        let told = story.order.last_event;
        story.is_told(facts);
        assert_eq!(story.order.last_event, told, "told again, it means nothing (seed {seed})");
        story.comes_to_an_end();
    }
}
