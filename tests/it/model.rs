//! Random histories of a small shop against a model so simple that it cannot be wrong.

use std::collections::HashMap;

use chrono::TimeDelta;
use proptest::{prelude::*, test_runner::TestRunner};
use souk_actors::{
    Adjust, CheckedOut,
    domain::{Command, OrderId, OrderStatus, RefundLimit, RefundState, RefundWish, Refusal, SkuId, Units, Who},
    ports::FactStatus,
};

use crate::support::{TestEngine, basket, eventually, fingerprint, usd};

/// One thing that somebody does. Numbers pick among what there is.
#[derive(Debug, Clone)]
enum Step {
    Buy {
        first: i64,
        second: i64,
        again: bool,
    },
    Cancel(usize),
    Pay(usize),
    /// The buyer approved, and nobody came by in time.
    PayLate(usize),
    /// Staff give a dollar back as a kindness.
    Kindness(usize),
    /// Staff call a unit of the first line off.
    CallOff(usize),
    /// The provider takes the money back.
    Reverse(usize),
    Wait,
    Adjust(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..4i64, 0..3i64, any::<bool>()).prop_map(|(first, second, again)| Step::Buy { first, second, again }),
        2 => (0..20usize).prop_map(Step::Cancel),
        3 => (0..20usize).prop_map(Step::Pay),
        1 => (0..20usize).prop_map(Step::PayLate),
        2 => (0..20usize).prop_map(Step::Kindness),
        2 => (0..20usize).prop_map(Step::CallOff),
        1 => (0..20usize).prop_map(Step::Reverse),
        1 => Just(Step::Wait),
        1 => (-3..4i64).prop_map(Step::Adjust),
    ]
}

/// An order as the model knows it.
#[derive(Debug, Clone)]
struct Known {
    lines: [i64; 2],
    /// Of which SKU the first line is.
    first: usize,
    status: OrderStatus,
    /// Of the order's money what is here, and what went back.
    here: i64,
    back: i64,
    /// The provider's name of it, once it was paid.
    paid_as: Option<String>,
}

#[derive(Debug)]
struct Model {
    on_hand: [i64; 2],
    reserved: [i64; 2],
    orders: Vec<(OrderId, Known)>,
}

impl Model {
    fn fits(&self, lines: [i64; 2]) -> bool {
        (0..2).all(|at| self.on_hand[at] - self.reserved[at] >= lines[at])
    }

    fn reserve(&mut self, lines: [i64; 2], sign: i64) {
        for (reserved, units) in self.reserved.iter_mut().zip(lines) {
            *reserved += sign * units;
        }
    }

    fn pick(&self, number: usize) -> Option<usize> {
        (!self.orders.is_empty()).then(|| number % self.orders.len())
    }
}

struct Shop<'a> {
    shop: &'a TestEngine,
    skus: [SkuId; 2],
    model: Model,
}

impl Shop<'_> {
    async fn take(&mut self, step: Step) {
        match step {
            Step::Buy { first, second, again } => self.buy([first, second], again).await,
            Step::Cancel(number) => self.cancel(number).await,
            Step::Pay(number) => self.pay(number, false).await,
            Step::PayLate(number) => self.pay(number, true).await,
            Step::Kindness(number) => self.kindness(number).await,
            Step::CallOff(number) => self.call_off(number).await,
            Step::Reverse(number) => self.reverse(number).await,
            Step::Wait => self.wait().await,
            Step::Adjust(delta) => self.adjust(delta).await,
        }
    }

    async fn buy(&mut self, lines: [i64; 2], again: bool) {
        let wanted: Vec<(SkuId, i64)> = self.skus.into_iter().zip(lines).filter(|(_, units)| *units > 0).collect();
        let checkout = basket(&wanted);
        let answer = self.shop.engine.checkout(checkout.clone()).await;
        if wanted.is_empty() {
            assert!(matches!(answer, Err(Refusal::Invalid(_))));
            return;
        }
        if !self.model.fits(lines) {
            assert!(matches!(answer, Err(Refusal::OutOfStock(_))), "{answer:?}");
            return;
        }
        let Ok(CheckedOut::New(placed)) = answer else { panic!("{answer:?}") };
        self.model.reserve(lines, 1);
        let first = usize::from(lines[0] == 0);
        let known = Known { lines, first, status: OrderStatus::AwaitingPayment, here: 0, back: 0, paid_as: None };
        self.model.orders.push((placed.order_id, known));
        if again {
            assert_eq!(self.shop.engine.checkout(checkout).await, Ok(CheckedOut::Replayed(placed.order_id)));
        }
    }

    async fn cancel(&mut self, number: usize) {
        let Some(at) = self.model.pick(number) else { return };
        let (order_id, known) = self.model.orders[at].clone();
        let answer = self.shop.engine.cancel(order_id, Who::Buyer).await;
        match known.status {
            OrderStatus::AwaitingPayment | OrderStatus::Confirmed => self.ends(at).await,
            OrderStatus::Cancelled => assert_eq!(answer, Ok(OrderStatus::Cancelled)),
            status @ (OrderStatus::Completed | OrderStatus::Cancelling | OrderStatus::Expired) => {
                assert!(matches!(answer, Err(Refusal::NotNow { status: said, .. }) if said == status))
            }
        }
    }

    /// An order was called off as a whole: stock and money are back.
    async fn ends(&mut self, at: usize) {
        let known = &mut self.model.orders[at].1;
        known.status = OrderStatus::Cancelled;
        known.back += std::mem::take(&mut known.here);
        let lines = std::mem::take(&mut known.lines);
        self.model.reserve(lines, -1);
        self.shop.becomes(self.model.orders[at].0, OrderStatus::Cancelled).await;
    }

    async fn kindness(&mut self, number: usize) {
        let Some(at) = self.model.pick(number) else { return };
        let (order_id, known) = &mut self.model.orders[at];
        let what = RefundWish::Goodwill(usd(100));
        let answer = self.shop.command(*order_id, Command::Refund { what, reason: "sorry".into() }).await;
        if known.here < 100 {
            let limit = RefundLimit::Captured;
            assert_eq!(answer, Err(Refusal::RefundExceeds { limit, left: known.here }));
            return;
        }
        answer.expect("it is there");
        known.here -= 100;
        known.back += 100;
    }

    async fn call_off(&mut self, number: usize) {
        let Some(at) = self.model.pick(number) else { return };
        let (order_id, known) = &mut self.model.orders[at];
        let lines = Some(vec![Units { line: 0, quantity: 1 }]);
        let answer = self.shop.command(*order_id, Command::Cancel { lines, reason: "fewer".into() }).await;
        let first = known.first;
        if known.status != OrderStatus::Confirmed || known.lines[first] == 0 {
            assert!(matches!(answer, Err(Refusal::NotNow { .. })), "{answer:?}");
            return;
        }
        answer.expect("it is there");
        if known.lines.iter().sum::<i64>() == 1 {
            return self.ends(at).await;
        }
        known.lines[first] -= 1;
        let back = known.here.min(1_000);
        known.here -= back;
        known.back += back;
        self.model.reserved[first] -= 1;
    }

    /// What is here is gone, and nothing goes back for it.
    async fn reverse(&mut self, number: usize) {
        let Some(at) = self.model.pick(number) else { return };
        let (order_id, known) = self.model.orders[at].clone();
        let Some(name) = known.paid_as.filter(|_| known.status == OrderStatus::Confirmed) else { return };
        // what was on its way back is back
        eventually("refunds are done", async || {
            let refunds = self.shop.view(order_id).await.refunds;
            refunds.iter().all(|refund| refund.state == RefundState::Completed)
        })
        .await;
        self.shop.provider.decide(&name, FactStatus::Reversed);
        self.shop.call_about(&name).await;
        self.model.orders[at].1.here = 0;
        self.ends(at).await;
    }

    async fn pay(&mut self, number: usize, late: bool) {
        let Some(at) = self.model.pick(number) else { return };
        let (order_id, known) = self.model.orders[at].clone();
        let page = self.shop.engine.pay(order_id, "fake").await;
        if known.status != OrderStatus::AwaitingPayment {
            assert!(matches!(page, Err(Refusal::NotNow { .. })));
            return;
        }
        if late {
            self.wait().await;
        }
        let provider_order_id = self.shop.provider.approve(&page.expect("it can be paid"));
        self.shop.call_about(&provider_order_id).await;
        let sold = !late || self.model.fits(known.lines);
        if sold {
            let paid = &mut self.model.orders[at].1;
            paid.status = OrderStatus::Confirmed;
            paid.here = 1_000 * known.lines.iter().sum::<i64>();
            paid.paid_as = Some(provider_order_id);
            self.model.reserve(known.lines, i64::from(late));
            self.shop.becomes(order_id, OrderStatus::Confirmed).await;
        } else {
            eventually("it is told that it came too late", async || {
                self.shop.timeline(order_id).await.contains(&"approved_too_late".to_owned())
            })
            .await;
        }
    }

    async fn wait(&mut self) {
        self.shop.later(TimeDelta::minutes(16));
        let due = self.model.orders.iter_mut().filter(|(_, known)| known.status == OrderStatus::AwaitingPayment);
        let mut freed = Vec::new();
        for (order_id, known) in due {
            known.status = OrderStatus::Expired;
            freed.push((*order_id, known.lines));
        }
        for (order_id, lines) in freed {
            self.model.reserve(lines, -1);
            self.shop.becomes(order_id, OrderStatus::Expired).await;
        }
    }

    async fn adjust(&mut self, delta: i64) {
        let adjust = Adjust {
            principal: "staff".into(),
            key: basket(&[]).key,
            fingerprint: fingerprint("count"),
            sku_id: self.skus[0],
            delta,
            reason: "counted".into(),
        };
        let answer = self.shop.engine.adjust(adjust).await;
        let free = self.model.on_hand[0] - self.model.reserved[0];
        match answer {
            Ok(_) => self.model.on_hand[0] += delta,
            Err(Refusal::BelowReserved { available }) => assert!(available == free && free < -delta),
            Err(Refusal::Invalid(_)) => assert_eq!(delta, 0),
            Err(refusal) => panic!("{refusal}"),
        }
    }

    /// Stock, ledger, orders and money are what the model says.
    async fn compare(&self, given_before: i64) {
        for at in 0..2 {
            let said = (self.model.on_hand[at], self.model.reserved[at]);
            assert_eq!(self.shop.stock(self.skus[at]).await, said);
            let ledger = self.shop.engine.ledger(self.skus[at], None, 1_000).await.expect("rows");
            let sums = ledger.iter().fold((0, 0), |sum, row| (sum.0 + row.d_on_hand, sum.1 + row.d_reserved));
            assert_eq!(sums, said);
        }
        let mut statuses: HashMap<OrderId, OrderStatus> = HashMap::new();
        for (order_id, known) in &self.model.orders {
            statuses.insert(*order_id, known.status);
            assert_eq!(self.shop.view(*order_id).await.status, known.status);
        }
        assert_eq!(statuses.len(), self.model.orders.len());
        // in the end everything that was promised has gone back, by the provider's own books
        let back: i64 = self.model.orders.iter().map(|(_, known)| known.back).sum();
        eventually("what was promised went back", async || self.shop.provider.given() - given_before == back).await;
        for (order_id, known) in &self.model.orders {
            let refunds = self.shop.view(*order_id).await.refunds;
            let said: i64 = refunds.iter().filter(|refund| refund.is_live()).map(|refund| refund.amount.minor).sum();
            assert_eq!(said, known.back);
        }
    }
}

#[test]
fn a_random_history_is_what_a_simple_model_says() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let shop = runtime.block_on(TestEngine::start());
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() });
    let histories = proptest::collection::vec(step(), 1..30);
    let outcome = runner.run(&histories, |steps| {
        runtime.block_on(async {
            let given_before = shop.provider.given();
            let skus = [shop.sku(8).await, shop.sku(5).await];
            let model = Model { on_hand: [8, 5], reserved: [0, 0], orders: Vec::new() };
            let mut history = Shop { shop: &shop, skus, model };
            for step in steps {
                history.take(step).await;
            }
            history.compare(given_before).await;
            shop.clean().await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    runtime.block_on(shop.end());
}
