//! Random histories of a small shop against a model so simple that it cannot be wrong.

use std::collections::HashMap;

use chrono::TimeDelta;
use proptest::{prelude::*, test_runner::TestRunner};
use souk_actors::{
    Adjust, CheckedOut,
    domain::{OrderId, OrderStatus, Refusal, SkuId, Who},
};

use crate::support::{TestEngine, basket, eventually, fingerprint};

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
    Wait,
    Adjust(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..4i64, 0..3i64, any::<bool>()).prop_map(|(first, second, again)| Step::Buy { first, second, again }),
        2 => (0..20usize).prop_map(Step::Cancel),
        3 => (0..20usize).prop_map(Step::Pay),
        1 => (0..20usize).prop_map(Step::PayLate),
        1 => Just(Step::Wait),
        1 => (-3..4i64).prop_map(Step::Adjust),
    ]
}

/// An order as the model knows it.
#[derive(Debug, Clone)]
struct Known {
    lines: [i64; 2],
    status: OrderStatus,
}

#[derive(Debug)]
struct Model {
    on_hand: [i64; 2],
    reserved: [i64; 2],
    orders: Vec<(OrderId, Known)>,
    money: i64,
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
        self.model.orders.push((placed.order_id, Known { lines, status: OrderStatus::AwaitingPayment }));
        if again {
            assert_eq!(self.shop.engine.checkout(checkout).await, Ok(CheckedOut::Replayed(placed.order_id)));
        }
    }

    async fn cancel(&mut self, number: usize) {
        let Some(at) = self.model.pick(number) else { return };
        let (order_id, known) = self.model.orders[at].clone();
        let answer = self.shop.engine.cancel(order_id, Who::Buyer).await;
        if known.status == OrderStatus::AwaitingPayment {
            self.model.orders[at].1.status = OrderStatus::Cancelled;
            self.model.reserve(known.lines, -1);
        }
        let status = self.model.orders[at].1.status;
        if status == OrderStatus::Cancelled {
            assert_eq!(answer, Ok(status));
        } else {
            assert!(matches!(answer, Err(Refusal::NotNow { status: said, .. }) if said == status));
        }
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
            self.model.orders[at].1.status = OrderStatus::Confirmed;
            self.model.money += 1_000 * known.lines.iter().sum::<i64>();
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
            correction: souk_actors::domain::Correction::By(delta),
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
    async fn compare(&self, money_before: i64) {
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
        let (taken, given) = self.shop.provider.money();
        assert_eq!((taken - money_before, given), (self.model.money, 0));
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
            let (money_before, _) = shop.provider.money();
            let skus = [shop.sku(8).await, shop.sku(5).await];
            let model = Model { on_hand: [8, 5], reserved: [0, 0], orders: Vec::new(), money: 0 };
            let mut history = Shop { shop: &shop, skus, model };
            for step in steps {
                history.take(step).await;
            }
            history.compare(money_before).await;
            shop.clean().await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    runtime.block_on(shop.end());
}
