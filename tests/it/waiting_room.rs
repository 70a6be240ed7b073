//! The waiting room of a sale, over HTTP: a fair place, a ticket that is worth nothing to anybody else, as many called as
//! there are units, and everybody told when there is nothing more to hope for.

use std::collections::HashSet;

use chrono::TimeDelta;
use futures::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use souk_actors::clock::Clock;
use sqlx::Connection;

use crate::{
    live_stock::Ear,
    support::{
        PATIENCE, eventually,
        house::House,
        shop::{Answer, Api, HOLD, Placed, TestShop, basket, fresh, paid_basket},
    },
};

/// How long whoever is called has to buy, in seconds; the shop's default.
const ADMISSION: i64 = 300;

/// A sale of all there is of one SKU, with a waiting room.
struct Sale {
    id: String,
    sku_id: String,
}

impl Sale {
    /// It starts after so many seconds, and runs for a day.
    async fn make(api: &Api, units: i64, starts_in: i64) -> Self {
        Self::of_some(api, units, units, starts_in).await
    }

    /// The same of some of what there is.
    async fn of_some(api: &Api, on_hand: i64, units: i64, starts_in: i64) -> Self {
        let sku_id = api.sku(on_hand).await;
        let starts_at = Clock::default().now() + TimeDelta::seconds(starts_in);
        let price = json!({ "amount": "9.99", "currency": "USD" });
        let mut body = json!({
            "name": "Friday", "starts_at": starts_at, "ends_at": starts_at + TimeDelta::days(1), "waiting_room": true,
            "skus": [{ "sku_id": sku_id, "quantity": units, "prices": [price] }],
        });
        if starts_in == 0 {
            body.as_object_mut().expect("an object").remove("starts_at");
        }
        let request = api.request(Method::POST, "/v1/admin/sales").bearer_auth(&api.staff);
        let made =
            Answer::of(request.header("idempotency-key", fresh("sale")).json(&body)).await.expect("an answer").ok();
        Self { id: made["sale_id"].as_str().expect("an id").to_owned(), sku_id }
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/sales/{}/room{rest}", self.id)
    }

    async fn try_join(&self, api: &Api, session: &str) -> Answer {
        let request = api.request(Method::POST, &self.path("")).header("souk-session", session);
        Answer::of(request).await.expect("an answer")
    }

    /// Staff open its waiting room, or close it.
    async fn has_a_room(&self, api: &Api, open: bool) {
        let request = api.request(Method::PATCH, &format!("/v1/admin/sales/{}", self.id)).bearer_auth(&api.staff);
        let request = request.header("idempotency-key", fresh("change")).json(&json!({ "waiting_room": open }));
        Answer::of(request).await.expect("an answer").ok();
    }

    /// Somebody with a session of their own.
    async fn join(&self, api: &Api) -> Guest {
        let session = fresh("a-session-that-nobody-guesses");
        let joined = self.try_join(api, &session).await.ok();
        assert_eq!(joined["session"], session.as_str());
        let email = format!("{}@example.com", fresh("guest"));
        Guest { ticket: joined["ticket"].as_str().expect("a ticket").to_owned(), session, email }
    }

    async fn see(&self, api: &Api, guest: &Guest) -> Value {
        api.get(&self.path(&format!("?ticket={}", guest.ticket))).await.ok()
    }

    async fn state(&self, api: &Api, guest: &Guest) -> String {
        self.see(api, guest).await["state"].as_str().expect("a word").to_owned()
    }

    async fn becomes(&self, api: &Api, guest: &Guest, state: &str) {
        eventually(state, async || self.state(api, guest).await == state).await;
    }

    /// One unit for a guest, with what it shows.
    async fn buy(&self, api: &Api, guest: &Guest) -> Answer {
        self.buy_as(api, guest, &guest.ticket, &guest.session, &fresh("key")).await
    }

    /// One unit for a guest, announced to the provider.
    async fn pays(&self, api: &Api, guest: &Guest) -> Placed {
        let mut body = paid_basket(&[(&self.sku_id, 1)]);
        body["email"] = guest.email.as_str().into();
        let request = api.request(Method::POST, "/v1/checkouts").header("idempotency-key", fresh("key")).json(&body);
        let request = request.header("souk-ticket", &guest.ticket).header("souk-session", &guest.session);
        Placed::of(&Answer::of(request).await.expect("an answer").ok())
    }

    async fn buy_as(&self, api: &Api, guest: &Guest, ticket: &str, session: &str, key: &str) -> Answer {
        let mut body = basket(&[(&self.sku_id, 1)]);
        body["email"] = guest.email.as_str().into();
        let request = api.request(Method::POST, "/v1/checkouts").header("idempotency-key", key).json(&body);
        let request = request.header("souk-ticket", ticket).header("souk-session", session);
        Answer::of(request).await.expect("an answer")
    }
}

#[derive(Debug, Clone)]
struct Guest {
    ticket: String,
    session: String,
    email: String,
}

/// How many guests are in each state.
async fn count(sale: &Sale, api: &Api, guests: &[Guest], state: &str) -> usize {
    let states: Vec<String> =
        stream::iter(guests).map(|guest| sale.state(api, guest)).buffer_unordered(32).collect().await;
    states.iter().filter(|one| *one == state).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_came_before_the_start_is_drawn_and_who_came_later_stands_behind() {
    let shop = TestShop::open().await;
    let sale = Sale::make(&shop, 1, 3_600).await;
    let mut early = Vec::new();
    for _ in 0..40 {
        early.push(sale.join(&shop).await);
    }
    assert_eq!(sale.state(&shop, &early[0]).await, "before_start");
    shop.later(3_601).await;
    eventually("one is called", async || count(&sale, &shop, &early, "admitted").await == 1).await;
    let mut late = Vec::new();
    for _ in 0..5 {
        late.push(sale.join(&shop).await);
    }
    // every place is somebody's, those who came later stand behind in the order in which they came …
    let mut places = Vec::new();
    for guest in &early {
        places.push(sale.see(&shop, guest).await["position"].as_i64().unwrap_or(0));
    }
    assert_eq!(places.iter().collect::<HashSet<_>>().len(), 40, "{places:?}");
    for (at, guest) in (40..).zip(&late) {
        assert_eq!(sale.see(&shop, guest).await["position"], at);
    }
    // … and those who came before do not
    assert!(!places.is_sorted(), "{places:?}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_has_one_ticket_and_a_ticket_one_session() {
    let shop = TestShop::open().await;
    let (sale, other) = (Sale::make(&shop, 1, 0).await, Sale::make(&shop, 1, 0).await);
    let guest = sale.join(&shop).await;
    let tabs = futures::future::join_all((0..20).map(|_| sale.try_join(&shop, &guest.session))).await;
    for tab in tabs {
        assert_eq!(tab.ok()["ticket"], guest.ticket.as_str(), "many tabs are one");
    }
    sale.becomes(&shop, &guest, "admitted").await;
    let second = sale.join(&shop).await;
    let foreign = other.join(&shop).await;
    other.becomes(&shop, &foreign, "admitted").await;
    let try_with = async |ticket: &str, session: &str| sale.buy_as(&shop, &guest, ticket, session, &fresh("key")).await;

    let plain = shop.checkout(&fresh("key"), &basket(&[(&sale.sku_id, 1)])).await;
    plain.is_problem(403, "ticket_required");
    try_with(&guest.ticket, &second.session).await.is_problem(403, "ticket_invalid");
    try_with(&foreign.ticket, &foreign.session).await.is_problem(403, "ticket_invalid");
    for forged in ["", "x", "AAAA.AAAA", &guest.ticket[1..], &format!("{}A", guest.ticket)] {
        try_with(forged, &guest.session).await.is_problem(403, "ticket_invalid");
        shop.get(&sale.path(&format!("?ticket={forged}"))).await.is_problem(403, "ticket_invalid");
        shop.get(&sale.path(&format!("/stream?ticket={forged}"))).await.is_problem(403, "ticket_invalid");
    }
    try_with(&second.ticket, &second.session).await.is_problem(409, "not_admitted");
    sale.try_join(&shop, "short").await.is_problem(422, "invalid");
    shop.post("/v1/sales/sale_1/room", json!({})).await.is_problem(404, "not_found");

    // once, and the same key finds the same order
    let key = fresh("key");
    let bought = sale.buy_as(&shop, &guest, &guest.ticket, &guest.session, &key).await.ok();
    let again = sale.buy_as(&shop, &guest, &guest.ticket, &guest.session, &key).await;
    assert_eq!((again.status, &again.body["order_id"]), (201, &bought["order_id"]), "{}", again.text);
    assert_eq!(sale.state(&shop, &guest).await, "used");
    // whatever it shows as its ticket by then
    for (ticket, session) in [("forged", guest.session.as_str()), (guest.ticket.as_str(), "short")] {
        let again = sale.buy_as(&shop, &guest, ticket, session, &key).await;
        assert_eq!((again.status, &again.body["order_id"]), (201, &bought["order_id"]), "{}", again.text);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_thousands_join_who_is_called_buys_and_others_are_called() {
    let shop = TestShop::open().await;
    let sale = Sale::make(&shop, 1, 0).await;
    let [first, second] = [sale.join(&shop).await, sale.join(&shop).await];
    sale.becomes(&shop, &first, "admitted").await;
    let story = async {
        assert_eq!(sale.buy(&shop, &first).await.status, 201);
        // that the unit is gone may be known before it is known whose turn it is
        let refused = sale.buy(&shop, &second).await;
        assert!(["not_admitted", "out_of_stock"].contains(&refused.code()), "{}", refused.text);
        shop.later(HOLD + 1).await;
        sale.becomes(&shop, &second, "admitted").await;
        assert_eq!(sale.buy(&shop, &second).await.status, 201);
    };
    let crowd = stream::repeat(()).map(|()| sale.join(&shop)).buffer_unordered(64).for_each(|_| std::future::ready(()));
    tokio::select! {
        () = story => {}
        () = crowd => unreachable!("they come for ever"),
    }
    let joins = (0..1_000).map(|_| sale.join(&shop));
    let guests: Vec<Guest> = stream::iter(joins).buffer_unordered(64).collect().await;
    let tickets: HashSet<&str> = guests.iter().map(|guest| guest.ticket.as_str()).collect();
    assert_eq!(tickets.len(), 1_000, "everybody has a number of their own");
    shop.close().await;
}

/// With the journal locked up, whoever asks Postgres for anything waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_ends_while_postgres_is_away_is_over_for_all_who_listen() {
    let shop = TestShop::open().await;
    let sale = Sale::make(&shop, 1, 0).await;
    let (first, waits) = (sale.join(&shop).await, sale.join(&shop).await);
    sale.becomes(&shop, &first, "admitted").await;
    let mut ear = Ear::open(&shop, &sale.path(&format!("/stream?ticket={}", waits.ticket))).await;
    assert_eq!(ear.next().await.expect("at once")["state"], "waiting");
    let mut conn = shop.db.conn().await;
    let mut lock = conn.begin().await.expect("a transaction");
    sqlx::raw_sql("lock table journal, waiting_room").execute(&mut *lock).await.expect("locked");
    shop.later(86_401).await;
    ear.until("the sale is over", |place| place["state"] == "over").await;
    assert!(ear.next().await.is_none(), "there is nothing more to say");
    lock.rollback().await.expect("unlocked");
    shop.close().await;
}

/// A turn that nobody could have used is given to nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgres_is_away_nobody_is_called() {
    let shop = TestShop::open().await;
    let sale = Sale::make(&shop, 1, 0).await;
    let (first, second) = (sale.join(&shop).await, sale.join(&shop).await);
    sale.becomes(&shop, &first, "admitted").await;
    let wish = basket(&[(&shop.sku(1).await, 1)]);
    let mut conn = shop.db.conn().await;
    let mut lock = conn.begin().await.expect("a transaction");
    sqlx::raw_sql("lock table journal").execute(&mut *lock).await.expect("locked");
    let outage = async {
        eventually("the journal is away", async || shop.see("/v1/ops/journal").await.ok()["condition"] == "away").await;
        for _ in 0..30 {
            shop.later(ADMISSION / 10).await;
            assert_eq!(sale.state(&shop, &second).await, "waiting");
        }
        lock.rollback().await.expect("unlocked");
    };
    let key = fresh("key");
    tokio::join!(outage, shop.checkout(&key, &wish));
    sale.becomes(&shop, &second, "admitted").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_bought_is_sent_home_when_the_sale_ends() {
    let shop = TestShop::open().await;
    let sale = Sale::make(&shop, 1, 0).await;
    let buyer = sale.join(&shop).await;
    sale.becomes(&shop, &buyer, "admitted").await;
    let mut ear = Ear::open(&shop, &sale.path(&format!("/stream?ticket={}", buyer.ticket))).await;
    assert_eq!(sale.buy(&shop, &buyer).await.status, 201);
    ear.until("it is theirs", |place| place["state"] == "used" && place["may_return"] == 1).await;
    shop.later(86_401).await;
    let ends = async { while ear.next().await.is_some_and(|place| place["state"] == "used") {} };
    tokio::time::timeout(PATIENCE, ends).await.expect("it ends");
    shop.close().await;
}

/// Staff think better of it before the sale begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_in_a_room_that_is_closed_is_told_at_once() {
    let shop = TestShop::open().await;
    let sale = Sale::make(&shop, 1, 3_600).await;
    let guest = sale.join(&shop).await;
    let mut ear = Ear::open(&shop, &sale.path(&format!("/stream?ticket={}", guest.ticket))).await;
    assert_eq!(ear.next().await.expect("at once")["state"], "before_start");
    sale.has_a_room(&shop, false).await;
    ear.until("there is no room any more", |place| place["state"] == "over").await;
    assert!(ear.next().await.is_none(), "there is nothing more to say");
    sale.try_join(&shop, &guest.session).await.is_problem(404, "not_found");
    sale.try_join(&shop, &fresh("a-session-that-nobody-guesses")).await.is_problem(404, "not_found");

    // and once more: who was there has a place
    sale.has_a_room(&shop, true).await;
    sale.becomes(&shop, &guest, "before_start").await;
    sale.has_a_room(&shop, false).await;
    shop.later(3_601).await;
    shop.checkout(&fresh("key"), &basket(&[(&sale.sku_id, 1)])).await.ok();
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_buys_once() {
    let shop = TestShop::open().await;
    let sale = Sale::make(&shop, 10, 0).await;
    let guest = sale.join(&shop).await;
    sale.becomes(&shop, &guest, "admitted").await;
    let tries = futures::future::join_all((0..10).map(|_| sale.buy(&shop, &guest))).await;
    let sold = tries.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(sold, 1, "{tries:?}");
    for lost in tries.iter().filter(|answer| answer.status != 201) {
        match lost.status {
            503 => lost.is_problem(503, "busy"), // while the one is not decided
            _ => lost.is_problem(409, "ticket_used"),
        };
    }
    sale.buy(&shop, &guest).await.is_problem(409, "ticket_used");
    assert_eq!(shop.stock(&sale.sku_id).await, (10, 1));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_goes_by_and_a_hold_that_lapses_let_the_next_in() {
    let shop = TestShop::open().await;
    let sale = Sale::make(&shop, 1, 0).await;
    let [first, second, third] = [sale.join(&shop).await, sale.join(&shop).await, sale.join(&shop).await];
    sale.becomes(&shop, &first, "admitted").await;
    assert_eq!(sale.see(&shop, &second).await["position"], 1);
    let mut ear = Ear::open(&shop, &sale.path(&format!("/stream?ticket={}", third.ticket))).await;
    assert_eq!(ear.next().await.expect("at once")["position"], 2);
    // the first does not buy
    shop.later(ADMISSION + 1).await;
    sale.becomes(&shop, &second, "admitted").await;
    assert_eq!(sale.state(&shop, &first).await, "lapsed");
    sale.buy(&shop, &first).await.is_problem(409, "ticket_expired");
    ear.until("one step nearer", |place| place["position"] == 1).await;
    // the second does, and does not pay
    assert_eq!(sale.buy(&shop, &second).await.status, 201);
    ear.until("it may come back", |place| place["may_return"] == 1 && place["state"] == "waiting").await;
    shop.later(HOLD + 1).await;
    ear.until("the turn has come", |place| place["state"] == "admitted").await;
    assert_eq!(sale.buy(&shop, &third).await.status, 201);
    // whose turn went by may stand in line again
    let again = sale.try_join(&shop, &first.session).await.ok();
    assert_ne!(again["ticket"], first.ticket.as_str());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_nothing_can_come_back_everybody_who_waits_is_told() {
    let shop = TestShop::open().await;
    let sale = Sale::make(&shop, 1, 0).await;
    let (buyer, waits) = (sale.join(&shop).await, sale.join(&shop).await);
    sale.becomes(&shop, &buyer, "admitted").await;
    let mut ear = Ear::open(&shop, &sale.path(&format!("/stream?ticket={}", waits.ticket))).await;
    let placed = sale.pays(&shop, &buyer).await;
    ear.until("there is hope", |place| place["may_return"] == 1 && place["state"] == "waiting").await;
    shop.bank.approve(&placed).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    ear.until("it is over", |place| place["state"] == "sold_out").await;
    assert_eq!(sale.state(&shop, &waits).await, "sold_out");
    shop.close().await;
}

/// What others leave unpaid at the usual price is not the sale's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_has_sold_its_part_is_sold_out_whatever_others_leave_unpaid() {
    let shop = TestShop::open().await;
    let sale = Sale::of_some(&shop, 5, 1, 0).await;
    let (buyer, waits) = (sale.join(&shop).await, sale.join(&shop).await);
    sale.becomes(&shop, &buyer, "admitted").await;
    let mut ear = Ear::open(&shop, &sale.path(&format!("/stream?ticket={}", waits.ticket))).await;
    let placed = sale.pays(&shop, &buyer).await;
    ear.until("there is hope", |place| place["may_return"] == 1 && place["state"] == "waiting").await;
    shop.place(basket(&[(&sale.sku_id, 3)])).await; // the sale has none left: the usual price
    shop.bank.approve(&placed).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    ear.until("it is over", |place| place["state"] == "sold_out" && place["may_return"] == 0).await;
    shop.close().await;
}

/// Everybody wants one, asks until it is their turn, and buys; those who are left are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_join_and_fifty_are_sold() {
    let shop = TestShop::open().await;
    let sale = Sale::make(&shop, 50, 3_600).await;
    let guests: Vec<Guest> = stream::iter(0..1_000).map(|_| sale.join(&shop)).buffer_unordered(64).collect().await;
    shop.later(3_601).await;
    let mut orders = 0;
    eventually("fifty have bought", async || {
        let buys = async |guest: &Guest| match sale.state(&shop, guest).await.as_str() {
            "admitted" => sale.buy(&shop, guest).await.status == 201,
            _ => false,
        };
        let bought: Vec<bool> = stream::iter(&guests).map(buys).buffer_unordered(64).collect().await;
        orders += bought.into_iter().filter(|bought| *bought).count();
        orders >= 50
    })
    .await;
    assert_eq!(orders, 50);
    assert_eq!(shop.stock(&sale.sku_id).await, (50, 50));
    assert_eq!(count(&sale, &shop, &guests, "used").await, 50);
    assert_eq!(count(&sale, &shop, &guests, "waiting").await, 950, "they may come back");
    assert_eq!(shop.count("select count(*) from ticket_use").await, 50);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_is_killed_forgets_no_place_and_calls_nobody_twice() {
    let mut house = House::new(&[("SOUK_CHECKOUT__HOLD_SECONDS", "900")]);
    house.start(None).await;
    let api = house.api.clone();
    let sale = Sale::make(&api, 3, 0).await;
    let mut guests = Vec::new();
    for _ in 0..10 {
        guests.push(sale.join(&api).await);
    }
    eventually("three are called", async || count(&sale, &api, &guests, "admitted").await == 3).await;
    assert_eq!(sale.buy(&api, &guests[0]).await.status, 201);
    let before: Vec<Value> = guests[3..].iter().map(|guest| json!(guest.ticket)).collect();
    house.kill().await;
    house.start(None).await;
    assert_eq!(sale.state(&api, &guests[0]).await, "used");
    sale.buy(&api, &guests[0]).await.is_problem(409, "ticket_used");
    let newcomer = sale.join(&api).await;
    assert!(!before.contains(&json!(newcomer.ticket)));
    for (at, guest) in (1..).zip(&guests[3..]) {
        assert_eq!(sale.see(&api, guest).await["position"], at, "nobody has lost a place, nobody else was called");
    }
    for guest in &guests[1..3] {
        assert_eq!(sale.buy(&api, guest).await.status, 201, "who was called may still buy");
    }
    assert_eq!(api.stock(&sale.sku_id).await, (3, 3));
    house.audit();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_room_says_so_and_keeps_those_who_are_in() {
    let shop = TestShop::with(&[("SOUK_WAITING_ROOM__MOST_WAITING", "3")]).await;
    let sale = Sale::make(&shop, 1, 3_600).await;
    let guests = [sale.join(&shop).await, sale.join(&shop).await, sale.join(&shop).await];
    sale.try_join(&shop, &fresh("a-session-that-nobody-guesses")).await.is_problem(503, "busy");
    let again = sale.try_join(&shop, &guests[0].session).await.ok();
    assert_eq!(again["ticket"], guests[0].ticket.as_str());
    shop.close().await;
}
