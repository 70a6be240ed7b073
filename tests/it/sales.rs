//! Sales: their price, their units and their limits hold inside their window, to the microsecond, whoever asks how often.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use souk_actors::{
    CheckedOut, Checkout, CommandKey, Placed,
    domain::{
        Command, LineState, NewSale, OrderId, OrderStatus, PaymentSummary, Refusal, SaleChange, SaleId, SaleItem,
        SalePhase, SkuId, Ticket, Units, Who,
    },
    store::read::SaleView,
};
use sqlx::Connection;
use tokio::task::JoinHandle;

use crate::support::{Proxy, Setup, TestDb, TestEngine, basket, eventually, fingerprint, shop::fresh, usd};

/// What a unit costs in these sales.
const PRICE: i64 = 400;
const HOUR: TimeDelta = TimeDelta::hours(1);
const MOMENT: TimeDelta = TimeDelta::microseconds(1);

fn key(name: &str) -> CommandKey {
    CommandKey { principal: "staff".into(), key: name.to_owned(), fingerprint: fingerprint(name) }
}

/// A sale of some units of a SKU, from now on for an hour, two for one customer.
fn sale_of(sku_id: SkuId, quantity: i64, now: DateTime<Utc>) -> NewSale {
    let item = SaleItem { sku_id, quantity, exclusive: false, prices: vec![usd(PRICE)] };
    NewSale {
        name: "Friday".into(),
        starts_at: None,
        ends_at: now + HOUR,
        per_customer: Some(2),
        hold: None,
        waiting_room: false,
        items: vec![(item, None)],
    }
}

/// The same for an hour that is still to come.
fn coming(sku_id: SkuId, quantity: i64, starts_at: DateTime<Utc>) -> NewSale {
    NewSale { starts_at: Some(starts_at), ..sale_of(sku_id, quantity, starts_at) }
}

/// A checkout of a SKU by somebody, as it was quoted: in a sale, or at its usual price.
fn wish(email: &str, sku_id: SkuId, units: i64, sale_id: Option<SaleId>) -> Checkout {
    let mut checkout = basket(&[(sku_id, units)]);
    checkout.email = email.parse().expect("an address");
    checkout.lines[0].sale_id = sale_id;
    if sale_id.is_some() {
        checkout.lines[0].unit_price = usd(PRICE);
        checkout.total = usd(PRICE * units);
    }
    checkout
}

impl TestEngine {
    async fn makes(&self, new: NewSale) -> SaleId {
        self.engine.make_sale(new, key(&fresh("sale"))).await.expect("it can be made").sale.sale.id
    }

    /// A SKU that is in a sale now, with so many units of it in the sale.
    async fn in_sale(&self, on_hand: i64, quantity: i64) -> (SkuId, SaleId) {
        let sku_id = self.sku(on_hand).await;
        (sku_id, self.makes(sale_of(sku_id, quantity, self.clock.now())).await)
    }

    async fn try_to_buy(&self, checkout: Checkout) -> Result<Placed, Refusal> {
        match self.engine.checkout(checkout).await? {
            CheckedOut::New(placed) => Ok(placed),
            CheckedOut::Replayed(order_id) => panic!("{order_id} was placed before"),
        }
    }

    async fn buys(&self, email: &str, sku_id: SkuId, units: i64, sale_id: Option<SaleId>) -> OrderId {
        self.try_to_buy(wish(email, sku_id, units, sale_id)).await.expect("it can be had").order_id
    }

    async fn refused(&self, email: &str, sku_id: SkuId, units: i64, sale_id: Option<SaleId>) -> Refusal {
        self.try_to_buy(wish(email, sku_id, units, sale_id)).await.expect_err("it cannot be had")
    }

    async fn sale(&self, id: SaleId) -> SaleView {
        self.engine.sale(id).await.expect("it is there")
    }

    async fn sold_in(&self, id: SaleId) -> i64 {
        self.sale(id).await.items[0].sold
    }

    async fn used(&self) -> i64 {
        self.count("select coalesce(sum(used), 0)::bigint from limit_use").await
    }

    async fn change(&self, id: SaleId, change: SaleChange) -> Result<SaleView, Refusal> {
        Ok(self.engine.change_sale(id, change, None, key(&fresh("change"))).await?.sale)
    }

    async fn ends_sale(&self, id: SaleId) -> SaleView {
        self.engine.end_sale(id, key(&fresh("end"))).await.expect("it can end").sale
    }

    async fn by_hand(&self, sql: &'static str) {
        let mut conn = self.db.conn().await;
        sqlx::raw_sql(sql).execute(&mut conn).await.expect("by hand");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn price_and_limit_hold_inside_the_window_to_the_microsecond() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(20).await;
    let starts_at = shop.clock.now() + HOUR;
    let ends_at = starts_at + HOUR;
    let sale = NewSale { starts_at: Some(starts_at), ends_at, ..sale_of(sku_id, 20, starts_at) };
    let sale_id = shop.makes(sale).await;
    let in_sale = Some(sale_id);
    let not_started = Refusal::SaleNotStarted { sku_id, sale_id, starts_at };
    let changed = Refusal::OfferChanged { sku_id };

    shop.clock.stand_still(starts_at - MOMENT);
    assert_eq!(shop.refused("ann@a.b", sku_id, 1, None).await, not_started, "it is sold in the sale alone");
    assert_eq!(shop.refused("ann@a.b", sku_id, 1, in_sale).await, changed);
    shop.later(MOMENT);
    assert_eq!(shop.refused("ann@a.b", sku_id, 1, None).await, changed, "the usual price is over");
    let first = shop.buys("ann@a.b", sku_id, 2, in_sale).await;
    let limit = Refusal::LimitReached { sku_id, sale_id, limit: 2, used: 2 };
    assert_eq!(shop.refused("ann@a.b", sku_id, 1, in_sale).await, limit);
    shop.clock.stand_still(ends_at - MOMENT);
    let last = shop.buys("bob@a.b", sku_id, 2, in_sale).await;
    shop.later(MOMENT);
    assert_eq!(shop.refused("bob@a.b", sku_id, 1, in_sale).await, changed);
    let usual = shop.buys("bob@a.b", sku_id, 5, None).await;
    for (order_id, total) in [(first, 2 * PRICE), (last, 2 * PRICE), (usual, 5_000)] {
        assert_eq!(shop.view(order_id).await.total, usd(total));
    }
    assert_eq!(shop.sale(sale_id).await.phase, SalePhase::Over);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_at_another_price_than_the_sales_is_not_placed() {
    let shop = TestEngine::start().await;
    let (sku_id, sale_id) = shop.in_sale(5, 5).await;
    let mut cheap = wish("ann@a.b", sku_id, 1, Some(sale_id));
    (cheap.lines[0].unit_price, cheap.total) = (usd(1), usd(1));
    assert_eq!(shop.engine.checkout(cheap).await, Err(Refusal::OfferChanged { sku_id }));
    let mut foreign = wish("ann@a.b", sku_id, 1, Some(sale_id));
    let euros = souk_actors::domain::Money::new(PRICE, "EUR".parse().unwrap());
    (foreign.lines[0].unit_price, foreign.total) = (euros, euros);
    assert_eq!(shop.engine.checkout(foreign).await, Err(Refusal::OfferChanged { sku_id }));
    assert_eq!((shop.stock(sku_id).await, shop.sold_in(sale_id).await), ((5, 0), 0));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_customer_in_fifty_tabs_has_no_more_than_the_limit() {
    let shop = TestEngine::start().await;
    let (sku_id, sale_id) = shop.in_sale(500, 500).await;
    let spellings =
        ["ann@shop.example", "ANN@Shop.Example", " ann@shop.example ", "ann+tab@shop.example", "Ann+x+y@SHOP.example"];
    for round in 0..5 {
        // the others buy beside
        let tabs = (0..50).map(|tab| wish(spellings[tab % spellings.len()], sku_id, 1, Some(sale_id)));
        let others = (0..10).map(|buyer| wish(&format!("bob{round}.{buyer}@a.b"), sku_id, 2, Some(sale_id)));
        let (tabs, others) = tokio::join!(
            join_all(tabs.map(|checkout| shop.try_to_buy(checkout))),
            join_all(others.map(|checkout| shop.try_to_buy(checkout))),
        );
        assert!(others.iter().all(Result::is_ok), "{others:?}");
        let had: Vec<_> = tabs.iter().flatten().collect();
        assert_eq!(had.len(), 2, "{tabs:?}");
        let told = |answer: &&Result<Placed, Refusal>| matches!(answer, Err(Refusal::LimitReached { limit: 2, .. }));
        assert_eq!(tabs.iter().filter(told).count(), 48);
        // unpaid holds count; given back, they count no more
        for placed in had {
            shop.engine.cancel(placed.order_id, Who::Buyer).await.unwrap();
        }
    }
    assert_eq!((shop.sold_in(sale_id).await, shop.used().await), (100, 100));
    shop.buys("ann@shop.example", sku_id, 2, Some(sale_id)).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_buyers_with_many_tabs_have_two_each_and_the_sale_ends_exactly() {
    let shop = TestEngine::start().await;
    let (sku_id, sale_id) = shop.in_sale(3_000, 1_500).await;
    let tabs = (0..3_000).map(|tab| wish(&format!("buyer{}@shop.example", tab % 1_000), sku_id, 1, Some(sale_id)));
    let answers = join_all(tabs.map(|checkout| shop.try_to_buy(checkout))).await;
    let bought = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(bought, 1_500);
    let refused = |answer: &Refusal| {
        matches!(answer, Refusal::LimitReached { .. } | Refusal::OutOfStock(_) | Refusal::OfferChanged { .. })
    };
    assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(refused));
    assert_eq!((shop.sold_in(sale_id).await, shop.used().await), (1_500, 1_500));
    assert_eq!(shop.count("select max(used) from limit_use").await, 2);
    assert_eq!(shop.stock(sku_id).await, (3_000, 1_500));
    // what the sale does not have is sold at its usual price
    shop.buys("buyer1@shop.example", sku_id, 7, None).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_is_given_back_once_however_its_line_ends() {
    let shop = TestEngine::start().await;
    let (sku_id, sale_id) = shop.in_sale(10, 4).await;
    let in_sale = Some(sale_id);
    let expires = shop.buys("ann@a.b", sku_id, 2, in_sale).await;
    let cancelled = shop.buys("bob@a.b", sku_id, 2, in_sale).await;
    assert!(matches!(
        shop.refused("cid@a.b", sku_id, 1, in_sale).await,
        Refusal::OutOfStock(_) | Refusal::OfferChanged { .. }
    ));
    shop.engine.cancel(cancelled, Who::Buyer).await.unwrap();
    shop.engine.cancel(cancelled, Who::Buyer).await.unwrap();
    assert_eq!((shop.sold_in(sale_id).await, shop.used().await), (2, 2));
    // sold, and one of the two called off
    let order_id = shop.buys("bob@a.b", sku_id, 2, in_sale).await;
    let at_provider = shop.approve(order_id).await;
    shop.call_about(&at_provider).await;
    shop.becomes(order_id, OrderStatus::Confirmed).await;
    let one = Some(vec![Units { line: 0, quantity: 1 }]);
    shop.command(order_id, Command::Cancel { lines: one, reason: "one is enough".into() }).await.unwrap();
    assert_eq!((shop.sold_in(sale_id).await, shop.used().await), (3, 3));
    shop.later(TimeDelta::minutes(16));
    shop.becomes(expires, OrderStatus::Expired).await;
    assert_eq!((shop.sold_in(sale_id).await, shop.used().await), (1, 1));
    shop.buys("ann@a.b", sku_id, 2, in_sale).await;
    shop.buys("bob@a.b", sku_id, 1, in_sale).await;
    assert_eq!((shop.sold_in(sale_id).await, shop.used().await), (4, 4));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_money_counts_again_while_the_sale_runs_and_goes_back_after_it() {
    let shop = TestEngine::start().await;
    let (sku_id, sale_id) = shop.in_sale(10, 10).await;
    let in_sale = Some(sale_id);
    // three orders whose money comes late: in time, over the limit, and after the sale
    for (email, then) in [("ann@a.b", "counts"), ("bob@a.b", "over the limit"), ("cid@a.b", "after the sale")] {
        let order_id = shop.buys(email, sku_id, 2, in_sale).await;
        let approve_url = shop.engine.pay(order_id, "fake").await.unwrap();
        shop.later(TimeDelta::minutes(16));
        shop.becomes(order_id, OrderStatus::Expired).await;
        let before = shop.sold_in(sale_id).await;
        match then {
            "over the limit" => drop(shop.buys(email, sku_id, 1, in_sale).await),
            "after the sale" => drop(shop.ends_sale(sale_id).await),
            _ => {}
        }
        let at_provider = shop.provider.approve(&approve_url);
        shop.provider.charge(&at_provider, usd(2 * PRICE));
        shop.call_about(&at_provider).await;
        if then == "counts" {
            shop.becomes(order_id, OrderStatus::Confirmed).await;
            assert_eq!((before, shop.sold_in(sale_id).await), (0, 2));
        } else {
            eventually("it goes back", async || shop.view(order_id).await.payment_status == PaymentSummary::Refunded)
                .await;
            assert_eq!(shop.view(order_id).await.status, OrderStatus::Expired, "{then}");
        }
    }
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_finds_the_same_order_also_when_the_limit_is_reached() {
    let shop = TestEngine::start().await;
    let (sku_id, sale_id) = shop.in_sale(10, 10).await;
    let checkout = wish("ann@a.b", sku_id, 2, Some(sale_id));
    let answers = join_all((0..20).map(|_| shop.engine.checkout(checkout.clone()))).await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Ok(CheckedOut::New(_)))).count(), 1);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(matches!(shop.engine.checkout(checkout.clone()).await, Ok(CheckedOut::Replayed(_))));
    shop.ends_sale(sale_id).await;
    assert!(matches!(shop.engine.checkout(checkout).await, Ok(CheckedOut::Replayed(_))), "also after the sale");
    assert_eq!(shop.sold_in(sale_id).await, 2);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_is_ended_midway_keeps_its_word_to_those_who_bought() {
    let shop = TestEngine::start().await;
    let (sku_id, sale_id) = shop.in_sale(10, 10).await;
    let paid = shop.buys("ann@a.b", sku_id, 2, Some(sale_id)).await;
    let unpaid = shop.buys("bob@a.b", sku_id, 1, Some(sale_id)).await;
    let ended = shop.ends_sale(sale_id).await;
    assert_eq!(ended.phase, SalePhase::Over);
    assert_eq!(shop.refused("cid@a.b", sku_id, 1, Some(sale_id)).await, Refusal::OfferChanged { sku_id });
    shop.buys("cid@a.b", sku_id, 3, None).await;
    let at_provider = shop.approve(paid).await;
    shop.call_about(&at_provider).await;
    shop.becomes(paid, OrderStatus::Confirmed).await;
    assert_eq!(shop.view(paid).await.total, usd(2 * PRICE));
    shop.later(TimeDelta::minutes(16));
    shop.becomes(unpaid, OrderStatus::Expired).await;
    assert_eq!(shop.sold_in(sale_id).await, 2);
    // another one may follow at once
    shop.makes(sale_of(sku_id, 2, shop.clock.now())).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_coming_sale_are_set_aside() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let starts_at = shop.clock.now() + HOUR;
    let sale = coming(sku_id, 7, starts_at);
    let sale_id = shop.makes(sale).await;
    assert!(!shop.sale(sale_id).await.items[0].item.exclusive, "it has not all there is");
    shop.buys("ann@a.b", sku_id, 2, None).await;
    let Refusal::OutOfStock(short) = shop.refused("bob@a.b", sku_id, 2, None).await else { panic!("one is left") };
    assert_eq!(short[0].available, 1);
    shop.ends_sale(sale_id).await;
    assert_eq!(shop.sale(sale_id).await.phase, SalePhase::Cancelled);
    shop.buys("bob@a.b", sku_id, 8, None).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sku_is_in_one_sale_at_a_time() {
    let shop = TestEngine::start().await;
    let (sku_id, sale_id) = shop.in_sale(10, 5).await;
    let now = shop.clock.now();
    let overlaps = Refusal::SaleOverlaps { sku_id, sale_id };
    let again = shop.engine.make_sale(sale_of(sku_id, 1, now), key("again")).await;
    assert_eq!(again.expect_err("it overlaps"), overlaps);
    let ends_at = shop.sale(sale_id).await.sale.ends_at;
    let next = NewSale { starts_at: Some(ends_at), ends_at: ends_at + HOUR, ..sale_of(sku_id, 1, now) };
    let next_id = shop.makes(next).await;
    let longer = SaleChange { ends_at: Some(ends_at + MOMENT), ..SaleChange::default() };
    let refused = shop.change(sale_id, longer.clone()).await.expect_err("it overlaps");
    assert_eq!(refused, Refusal::SaleOverlaps { sku_id, sale_id: next_id });
    shop.ends_sale(next_id).await;
    shop.change(sale_id, longer).await.expect("there is room now");
    // and the database has the last word
    let mut conn = shop.db.conn().await;
    let forced = "insert into sale_sku (sale_id, sku_id, position, quantity, exclusive, during)
                  select sale_id + 1000000, sku_id, 1, 1, true, during from sale_sku where not isempty(during) limit 1";
    let error = sqlx::raw_sql(forced).execute(&mut conn).await.expect_err("it overlaps");
    assert!(error.to_string().contains("sale_sku_in_one_sale_at_a_time"), "{error}");
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_sale_has_can_change_but_not_below_what_is_sold() {
    let shop = TestEngine::start().await;
    let (sku_id, sale_id) = shop.in_sale(10, 3).await;
    shop.buys("ann@a.b", sku_id, 2, Some(sale_id)).await;
    let to = |quantity| SaleChange { quantities: vec![(sku_id, quantity)], ..SaleChange::default() };
    assert_eq!(shop.change(sale_id, to(1)).await.expect_err("two are sold"), Refusal::BelowSold { sku_id, sold: 2 });
    shop.change(sale_id, to(2)).await.expect("as many as are sold");
    assert!(matches!(shop.refused("bob@a.b", sku_id, 1, Some(sale_id)).await, Refusal::OfferChanged { .. }));
    shop.change(sale_id, to(4)).await.expect("more");
    shop.buys("bob@a.b", sku_id, 2, Some(sale_id)).await;
    let cheaper = SaleChange { per_customer: Some(Some(5)), ..SaleChange::default() };
    let refused = shop.change(sale_id, cheaper).await.expect_err("it runs");
    assert!(matches!(refused, Refusal::SaleState { phase: SalePhase::Running, .. }), "{refused:?}");
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shortest_hold_counts() {
    let shop = TestEngine::start().await;
    let (short, long, usual) = (shop.sku(5).await, shop.sku(5).await, shop.sku(5).await);
    let now = shop.clock.now();
    let hold = |minutes| Some(TimeDelta::minutes(minutes));
    let sales = [
        (short, shop.makes(NewSale { hold: hold(5), ..sale_of(short, 5, now) }).await),
        (long, shop.makes(NewSale { hold: hold(30), ..sale_of(long, 5, now) }).await),
    ];
    for (lines, minutes) in [(vec![0], 5), (vec![1], 30), (vec![0, 1], 5), (vec![1, 2], 15)] {
        let sku_ids = [short, long, usual];
        let mut checkout = basket(&lines.iter().map(|line| (sku_ids[*line], 1)).collect::<Vec<_>>());
        for line in &mut checkout.lines {
            if let Some((_, sale_id)) = sales.iter().find(|(sku_id, _)| *sku_id == line.sku_id) {
                (line.sale_id, line.unit_price) = (Some(*sale_id), usd(PRICE));
            }
        }
        checkout.email = format!("{}@a.b", fresh("buyer")).parse().unwrap();
        checkout.total = usd(checkout.lines.iter().map(|line| line.unit_price.minor).sum());
        let placed = shop.try_to_buy(checkout).await.expect("it is there");
        let view = shop.view(placed.order_id).await;
        assert_eq!(view.hold_expires_at - view.created_at, TimeDelta::minutes(minutes), "{lines:?}");
    }
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_harms_no_neighbour() {
    let shop = TestEngine::start().await;
    let (sku_id, sale_id) = shop.in_sale(200, 100).await;
    let (other, usual) = (shop.in_sale(100, 50).await, shop.sku(100).await);
    // in memory ann has one and both sales run; in Postgres she has two, and the other sale has ended
    shop.buys("ann@a.b", sku_id, 1, Some(sale_id)).await;
    shop.buys("ann@a.b", other.0, 1, Some(other.1)).await;
    shop.by_hand("update limit_use set used = 2").await;
    shop.by_hand(
        "update sale_sku set during = tstzrange(lower(during), lower(during) + interval '1 microsecond')
                  where quantity = 50",
    )
    .await;
    let before = shop.engine.journal().conflicts;
    let buyers = || (0..20).map(|buyer| format!("buyer{buyer}@a.b"));
    let neighbours = buyers().map(|email| wish(&email, sku_id, 2, Some(sale_id)));
    let strangers = buyers().map(|email| wish(&email, usual, 1, None));
    let too_late = buyers().map(|email| wish(&email, other.0, 1, Some(other.1)));
    let (neighbours, strangers, too_late, ann) = tokio::join!(
        join_all(neighbours.map(|checkout| shop.try_to_buy(checkout))),
        join_all(strangers.map(|checkout| shop.try_to_buy(checkout))),
        join_all(too_late.map(|checkout| shop.try_to_buy(checkout))),
        shop.try_to_buy(wish("ann@a.b", sku_id, 1, Some(sale_id))),
    );
    assert!(neighbours.iter().chain(&strangers).all(Result::is_ok), "{neighbours:?} {strangers:?}");
    // counted afresh and decided again; what is still refused is for another time
    assert_eq!(ann, Err(Refusal::LimitReached { sku_id, sale_id, limit: 2, used: 2 }));
    assert!(too_late.iter().all(|answer| *answer == Err(Refusal::Busy)), "{too_late:?}");
    assert!(shop.engine.journal().conflicts > before && shop.engine.journal().failures == 0);
    assert_eq!((shop.sold_in(sale_id).await, shop.sold_in(other.1).await), (41, 1));
    shop.by_hand(
        "update limit_use u set used = (select sum(quantity) from reservation r
                  where r.sale_id = u.sale_id and r.sku_id = u.sku_id and r.customer = u.customer)",
    )
    .await;
    shop.by_hand(
        "update sale_sku q set during = (select tstzrange(starts_at, ends_at) from sale s where s.id = q.sale_id)",
    )
    .await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_of_a_coming_sale_are_awake_before_it_begins() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let starts_at = shop.clock.now() + HOUR;
    shop.makes(coming(sku_id, 5, starts_at)).await;
    let name = format!("sku/{sku_id}");
    assert!(shop.actor(&name).is_none());
    shop.later(HOUR - TimeDelta::seconds(59));
    eventually("it is awake", async || shop.actor(&name).is_some_and(|node| node.status == "running")).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_could_not_be_woken_is_woken_again() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let starts_at = shop.clock.now() + HOUR;
    shop.makes(coming(sku_id, 5, starts_at)).await;
    let name = format!("sku/{sku_id}");
    // what the sale has given cannot be counted, for a while
    shop.by_hand("alter table limit_use rename to limit_use_away").await;
    assert_eq!(shop.refused("ann@a.b", sku_id, 1, None).await, Refusal::Fault);
    let idle = shop.actor(&name).expect("a cell");
    assert_eq!((idle.status, idle.detail), ("idle", None), "nobody sees what was not counted");
    shop.by_hand("alter table limit_use_away rename to limit_use").await;
    shop.later(HOUR - TimeDelta::seconds(59));
    eventually("it is awake", async || shop.actor(&name).is_some_and(|node| node.status == "running")).await;
    assert!(shop.actor(&name).expect("a cell").detail.is_some());
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reconciler_waits_for_no_count() {
    let shop = TestEngine::start().await;
    let (sku_id, other) = (shop.sku(5).await, shop.sku(5).await);
    let starts_at = shop.clock.now() + HOUR;
    let sale = coming(sku_id, 5, starts_at);
    shop.makes(sale.clone()).await;
    let mut conn = shop.db.conn().await;
    let mut lock = conn.begin().await.expect("a transaction");
    sqlx::raw_sql("lock table limit_use").execute(&mut *lock).await.expect("locked");
    shop.later(HOUR - TimeDelta::seconds(59));
    let waits = "select count(*) from pg_locks where relation = 'limit_use'::regclass and not granted";
    eventually("it is being counted", async || shop.count(waits).await > 0).await;
    assert!(shop.actor(&format!("sku/{sku_id}")).expect("a cell").detail.is_none(), "nobody sees what is not counted");
    // a room is opened by the reconciler's look
    let room = NewSale { waiting_room: true, items: sale_of(other, 5, starts_at).items, ..sale };
    let name = format!("room/{}", shop.makes(room).await);
    eventually("it looks", async || shop.actor(&name).is_some_and(|node| node.status == "running")).await;
    assert!(shop.count(waits).await > 0, "the count has not come to its end");
    lock.rollback().await.expect("unlocked");
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_is_made_once_with_one_key() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let new = sale_of(sku_id, 5, shop.clock.now());
    let made = join_all((0..10).map(|_| shop.engine.make_sale(new.clone(), key("once")))).await;
    let ids: Vec<SaleId> = made.iter().map(|made| made.as_ref().expect("made").sale.sale.id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(made.iter().filter(|made| !made.as_ref().expect("made").replayed).count(), 1);
    let stranger = NewSale { items: Vec::new(), ..new.clone() };
    assert!(matches!(shop.engine.make_sale(stranger, key("none")).await, Err(Refusal::Invalid(_))));
    let other = CommandKey { fingerprint: fingerprint("another"), ..key("once") };
    assert_eq!(shop.engine.make_sale(new, other).await.expect_err("used"), Refusal::KeyReused);
    shop.end().await;
}

/// An engine whose journal can be held up.
async fn behind_a_proxy() -> (TestEngine, Proxy) {
    let db = Arc::new(TestDb::new().await);
    let proxy = Proxy::before(&db.connect);
    let connect = proxy.through(&db.connect);
    (TestEngine::on(db, connect, Setup::default()).await, proxy)
}

/// The journal stands still with an order on its way, until the proxy lets it go on.
async fn stands_still(shop: &TestEngine, proxy: &Proxy) -> JoinHandle<Result<CheckedOut, Refusal>> {
    let sku_id = shop.sku(2).await;
    shop.order(sku_id, 1).await; // the journal's statement is prepared: the next one is one message
    let orders = shop.count("select count(*) from customer_order").await;
    proxy.hold_up(true);
    let engine = Arc::clone(&shop.engine);
    let first = tokio::spawn(async move { engine.checkout(basket(&[(sku_id, 1)])).await });
    eventually("the journal is busy", async || shop.count("select count(*) from customer_order").await == orders + 1)
        .await;
    first
}

/// While the journal stands still somebody asks something of it, leaves, and it goes on.
async fn asks_and_leaves<T: Send + 'static>(
    shop: &TestEngine,
    proxy: &Proxy,
    asked: impl Future<Output = T> + Send + 'static,
) {
    let first = stands_still(shop, proxy).await;
    let asked = tokio::spawn(asked);
    eventually("it is queued", async || shop.engine.journal().queued == 1).await;
    asked.abort();
    asked.await.map(drop).expect_err("nobody waits for it");
    proxy.hold_up(false);
    first.await.expect("no panic").expect("it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_look_asks_for_the_limits_of_those_who_buy_alone() {
    let (shop, proxy) = behind_a_proxy().await;
    let sku_ids = join_all((0..100).map(|_| shop.sku(5))).await;
    let now = shop.clock.now();
    let items = sku_ids.iter().flat_map(|sku_id| sale_of(*sku_id, 5, now).items).collect();
    let in_sale = Some(shop.makes(NewSale { items, ..sale_of(sku_ids[0], 5, now) }).await);
    // in memory ann has one, in Postgres two: the batch that she is in is looked through
    shop.buys("ann@a.b", sku_ids[0], 1, in_sale).await;
    shop.by_hand("update limit_use set used = 2").await;
    let first = stands_still(&shop, &proxy).await;
    let buyers = sku_ids.iter().enumerate().map(|(n, sku_id)| wish(&format!("buyer{n}@a.b"), *sku_id, 1, in_sale));
    let together: Vec<Checkout> = buyers.chain([wish("ann@a.b", sku_ids[0], 1, in_sale)]).collect();
    let engine = Arc::clone(&shop.engine);
    let asked = tokio::spawn(async move { join_all(together.into_iter().map(|one| engine.checkout(one))).await });
    eventually("all are queued", async || shop.engine.journal().queued == 101).await;
    proxy.hold_up(false);
    first.await.expect("no panic").expect("it is there");
    let mut answers = asked.await.expect("no panic");
    assert!(matches!(answers.pop(), Some(Err(Refusal::LimitReached { used: 2, .. }))));
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");

    // Postgres tells late what a connection has done, and all of it together
    let usual = shop.sku(1_000_000).await;
    shop.makes(sale_of(shop.sku(1).await, 1, now)).await;
    eventually("it is told", async || {
        shop.order(usual, 1).await;
        shop.count("select n_tup_ins from pg_stat_user_tables where relname = 'sale'").await == 2
    })
    .await;
    let looks = shop.count("select idx_scan from pg_stat_user_tables where relname = 'limit_use'").await;
    assert!(looks < 2_000, "{looks} for a hundred customers of one SKU each");
    shop.by_hand(
        "update limit_use u set used = (select sum(quantity) from reservation r
                  where r.sale_id = u.sale_id and r.sku_id = u.sku_id and r.customer = u.customer)",
    )
    .await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_for_its_first_attempt_though_whoever_asked_has_left() {
    let (shop, proxy) = behind_a_proxy().await;
    let (sku_id, sale_id) = shop.in_sale(10, 10).await;
    let checkout = wish("ann@a.b", sku_id, 2, Some(sale_id));
    let busy = stands_still(&shop, &proxy).await;
    let (engine, first) = (Arc::clone(&shop.engine), checkout.clone());
    let attempt = tokio::spawn(async move { engine.checkout(first).await });
    eventually("it is queued", async || shop.engine.journal().queued == 1).await;
    attempt.abort();
    attempt.await.map(drop).expect_err("the line has dropped");

    // both are promised to the first attempt: whoever else asks hears so, the retry waits
    let others = async {
        for _ in 0..50 {
            let refused = shop.refused("ann@a.b", sku_id, 1, Some(sale_id)).await;
            assert_eq!(refused, Refusal::LimitReached { sku_id, sale_id, limit: 2, used: 2 });
        }
    };
    let engine = Arc::clone(&shop.engine);
    let mut retry = std::pin::pin!(engine.checkout(checkout));
    tokio::select! {
        biased;
        answer = &mut retry => panic!("nobody knows yet: {answer:?}"),
        () = others => {}
    }
    proxy.hold_up(false);
    let answer = retry.await;
    assert!(matches!(answer, Ok(CheckedOut::Replayed(_))), "{answer:?}");
    busy.await.expect("no panic").expect("it is there");
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_in_in_time_buys_though_the_sale_has_changed_meanwhile() {
    let (shop, proxy) = behind_a_proxy().await;
    let sku_id = shop.sku(10).await;
    let sale_id = shop.makes(NewSale { waiting_room: true, ..sale_of(sku_id, 5, shop.clock.now()) }).await;
    let ticket = Ticket { sale_id, number: shop.engine.join(sale_id, [7; 16]).await.expect("it is open") };
    let in_line = shop.engine.in_line(ticket).await.expect("in line");
    let is_in = |standing| matches!(standing, LineState::Admitted { .. });
    eventually("the turn has come", async || is_in(in_line.view().standing)).await;

    // the sale has other terms in Postgres than in memory while the checkout is decided …
    proxy.hold_up(true);
    let more = SaleChange { quantities: vec![(sku_id, 6)], ..SaleChange::default() };
    let engine = Arc::clone(&shop.engine);
    let change = tokio::spawn(async move { engine.change_sale(sale_id, more, None, key("more")).await });
    let writing = "select count(*) from pg_stat_activity
                   where datname = current_database() and application_name = 'souk journal' and state like 'idle in%'";
    eventually("it is being changed", async || shop.count(writing).await == 1).await;
    let checkout = Checkout { ticket: Some(ticket), ..wish("ann@a.b", sku_id, 1, Some(sale_id)) };
    let engine = Arc::clone(&shop.engine);
    let bought = tokio::spawn(async move { engine.checkout(checkout).await });
    eventually("it is queued", async || shop.engine.journal().queued == 1).await;
    // … and when it is decided again the turn is over
    shop.later(TimeDelta::minutes(6));
    assert!(matches!(
        shop.engine.checkout(Checkout { ticket: Some(ticket), ..wish("bob@a.b", sku_id, 1, Some(sale_id)) }).await,
        Err(Refusal::Ticket(_))
    ));
    proxy.hold_up(false);
    let bought = bought.await.expect("no panic");
    assert!(matches!(bought, Ok(CheckedOut::New(_))), "{bought:?}");
    change.await.expect("no panic").expect("it can change");
    assert!(shop.engine.journal().conflicts > 0, "it was decided twice");
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_is_known_also_where_whoever_made_or_ended_it_has_left() {
    let (shop, proxy) = behind_a_proxy().await;
    let sku_id = shop.sku(5).await;
    let (engine, new) = (Arc::clone(&shop.engine), sale_of(sku_id, 5, shop.clock.now()));
    asks_and_leaves(&shop, &proxy, async move { engine.make_sale(new, key("made")).await }).await;
    eventually("it is known", async || shop.engine.sale_of(sku_id).is_some()).await;
    let sale_id = shop.engine.sale_of(sku_id).expect("known").id;
    shop.buys("ann@a.b", sku_id, 1, Some(sale_id)).await;

    let engine = Arc::clone(&shop.engine);
    asks_and_leaves(&shop, &proxy, async move { engine.end_sale(sale_id, key("ended")).await }).await;
    eventually("its end is known", async || shop.engine.sale_of(sku_id).is_none()).await;
    shop.buys("ann@a.b", sku_id, 3, None).await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_decided_before_the_sale_began_comes_too_late_once_it_sells() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(5).await;
    let starts_at = shop.clock.now() + HOUR;
    let sale = coming(sku_id, 5, starts_at);
    let sale_id = shop.makes(sale).await;
    let unlimited = SaleChange { per_customer: Some(None), ..SaleChange::default() };
    shop.clock.stand_still(starts_at - TimeDelta::seconds(10));
    let refused = shop.change(sale_id, unlimited.clone()).await.expect_err("its terms are settled");
    assert!(matches!(refused, Refusal::SaleState { phase: SalePhase::Coming, .. }), "{refused:?}");
    shop.clock.stand_still(starts_at);
    shop.buys("ann@a.b", sku_id, 1, Some(sale_id)).await;
    // decided in time, written too late
    shop.clock.stand_still(starts_at - TimeDelta::minutes(1));
    assert_eq!(shop.change(sale_id, unlimited).await.expect_err("one is sold"), Refusal::Busy);
    assert_eq!(shop.engine.end_sale(sale_id, key("off")).await.expect_err("one is sold"), Refusal::Busy);
    shop.clock.stand_still(starts_at);
    let named = SaleChange { name: Some("Black Friday".into()), ..SaleChange::default() };
    shop.change(sale_id, named).await.expect("while it runs");
    shop.buys("ann@a.b", sku_id, 1, Some(sale_id)).await;
    shop.end().await;
}

/// Nor does an engine of that release go on that counts them not.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_sale_has_that_is_not_paid_is_counted_in_the_tables_of_a_release_that_did_not() {
    let shop = TestEngine::start().await;
    let (sku_id, sale_id) = shop.in_sale(20, 10).await;
    shop.buys("ann@a.b", sku_id, 2, Some(sale_id)).await;
    shop.by_hand("alter table sale_sku drop column unpaid").await;
    shop.by_hand(include_str!("../../migrations/0015_unpaid_of_sales.sql")).await;
    assert_eq!(shop.count("select sum(unpaid)::bigint from sale_sku").await, 2);
    assert_eq!(shop.refused("bob@a.b", sku_id, 1, Some(sale_id)).await, Refusal::Superseded);
    shop.engine.stop().await;
}
