//! Three hundred real baskets, thirty-two at a time: some paid, some called off, some left. At the end every unit and
//! every cent is where a model of one page says.

use std::collections::HashMap;

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use souk_actors::domain::SkuId;

use crate::support::shop::{HOLD, Placed, TestShop, basket, fresh, paid_basket};

const BASKETS: &str = include_str!("../data/baskets.csv");
const AT_ONCE: usize = 32;

/// What the file does not say is made up from the code: 1 to 100.
fn figure(code: &str, salt: &str) -> i64 {
    i64::from(crc32fast::hash(format!("{code}/{salt}").as_bytes()) % 100) + 1
}

/// A tenth of all codes are scarce.
fn stock_of(code: &str) -> i64 {
    if figure(code, "scarce") > 90 { figure(code, "stock") % 4 } else { 1_000 }
}

fn cents_of(code: &str) -> i64 {
    figure(code, "price") * 37
}

fn quantity_of(code: &str) -> i64 {
    figure(code, "quantity") % 3 + 1
}

fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// What becomes of an order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Paid,
    CalledOff,
    Left,
}

struct Sale {
    lines: HashMap<&'static str, i64>,
    fate: Fate,
    /// None: it was out of stock.
    placed: Option<Placed>,
}

/// Units of a SKU by what happened to them.
#[derive(Default, Debug, PartialEq, Eq)]
struct Moves {
    opened: i64,
    reserved: i64,
    released: i64,
    expired: i64,
}

impl Moves {
    fn kept(&self) -> i64 {
        self.reserved - self.released - self.expired
    }
}

/// A product a hundred codes; the ids of its SKUs by code.
async fn fill(shop: &TestShop, codes: &[&'static str]) -> HashMap<&'static str, String> {
    let mut sku_ids = HashMap::new();
    for some in codes.chunks(100) {
        let sku = |code: &&str| json!({ "code": code, "price": money(cents_of(code)), "on_hand": stock_of(code) });
        let skus: Vec<Value> = some.iter().map(sku).collect();
        let product = json!({ "name": fresh("Retail"), "currency": "USD", "skus": skus });
        let made = shop.order_staff("/v1/admin/products", product).await.ok();
        for (code, sku) in some.iter().zip(made["skus"].as_array().expect("a list")) {
            sku_ids.insert(*code, sku["sku_id"].as_str().expect("an id").to_owned());
        }
    }
    sku_ids
}

async fn sell(shop: &TestShop, sku_ids: &HashMap<&str, String>, at: usize, codes: &'static str) -> Sale {
    let lines: Vec<(&str, i64)> = codes.split(',').map(|code| (sku_ids[code].as_str(), quantity_of(code))).collect();
    let mut merged: HashMap<&'static str, i64> = HashMap::new();
    for code in codes.split(',') {
        *merged.entry(code).or_default() += quantity_of(code);
    }
    let fate = [Fate::Paid, Fate::CalledOff, Fate::Left][at % 3];
    let body = if fate == Fate::Paid { paid_basket(&lines) } else { basket(&lines) };
    let answer = shop.checkout(&format!("invoice-{at}"), &body).await;
    if answer.status != 201 {
        answer.is_problem(409, "out_of_stock");
        return Sale { lines: merged, fate, placed: None };
    }
    let total: i64 = merged.iter().map(|(code, quantity)| cents_of(code) * quantity).sum();
    assert_eq!(answer.body["total"]["amount"], money(total));
    let placed = Placed::of(&answer.body);
    match fate {
        Fate::Paid => shop.bank.approve(&placed).await,
        Fate::CalledOff => drop(shop.post(&placed.path("/cancel"), Value::Null).await.ok()),
        Fate::Left => {}
    }
    Sale { lines: merged, fate, placed: Some(placed) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_baskets_leave_exact_books() {
    let shop = TestShop::open().await;
    let mut codes: Vec<&'static str> = BASKETS.lines().flat_map(|line| line.split(',')).collect();
    codes.sort_unstable();
    codes.dedup();
    let sku_ids = fill(&shop, &codes).await;

    let sales = stream::iter(BASKETS.lines().enumerate().map(|(at, codes)| sell(&shop, &sku_ids, at, codes)));
    let sales: Vec<Sale> = sales.buffer_unordered(AT_ONCE).collect().await;
    for (placed, fate) in sales.iter().filter_map(|sale| Some((sale.placed.as_ref()?, sale.fate))) {
        match fate {
            Fate::Paid => shop.becomes(placed, "confirmed", "paid").await,
            Fate::CalledOff => assert_eq!(shop.status(placed).await, ("cancelled".into(), "unpaid".into())),
            Fate::Left => assert_eq!(shop.status(placed).await, ("awaiting_payment".into(), "unpaid".into())),
        }
    }
    shop.later(HOLD).await;
    for sale in sales.iter().filter(|sale| sale.fate == Fate::Left) {
        if let Some(placed) = &sale.placed {
            shop.becomes(placed, "expired", "unpaid").await;
        }
    }

    // what must have happened to every SKU, and what its ledger says
    let mut model: HashMap<SkuId, Moves> = HashMap::new();
    for code in &codes {
        let sku_id: SkuId = sku_ids[code].parse().expect("an id");
        model.insert(sku_id, Moves { opened: stock_of(code), ..Moves::default() });
    }
    let mut cents = 0;
    for sale in sales.iter().filter(|sale| sale.placed.is_some()) {
        for (code, quantity) in &sale.lines {
            let moves = model.get_mut(&sku_ids[code].parse().expect("an id")).expect("it is sold");
            moves.reserved += quantity;
            match sale.fate {
                Fate::Paid => cents += cents_of(code) * quantity,
                Fate::CalledOff => moves.released += quantity,
                Fate::Left => moves.expired += quantity,
            }
        }
    }
    let told = ledger(&shop).await;
    for (sku_id, moves) in &model {
        assert_eq!(&told[sku_id], moves, "{sku_id}");
        assert!((0..=moves.opened).contains(&moves.kept()), "{sku_id}: {moves:?}");
    }

    // the catalogue says the same
    let mut shown = 0;
    let catalogue = shop.get("/v1/products?limit=100").await.ok();
    for sku in
        catalogue["products"].as_array().expect("a list").iter().flat_map(|one| one["skus"].as_array().expect("a list"))
    {
        let Some(moves) = model.get(&sku["sku_id"].as_str().expect("an id").parse().expect("an id")) else { continue };
        assert_eq!(sku["available"], moves.opened - moves.kept(), "{sku}");
        shown += 1;
    }
    assert_eq!(shown, codes.len());

    let refused = sales.iter().filter(|sale| sale.placed.is_none()).count();
    assert!((10..200).contains(&refused), "{refused} of {} were out of stock", sales.len());
    let paid = sales.iter().filter(|sale| sale.fate == Fate::Paid && sale.placed.is_some()).count();
    let books = shop.bank.summary().await;
    assert_eq!((&books["captured"]["USD"], &books["captures"]), (&json!(cents), &json!(paid)));
    assert_eq!((&books["orders"], &books["refunds"]), (&json!(paid), &json!(0)));
    shop.close().await;
}

async fn ledger(shop: &TestShop) -> HashMap<SkuId, Moves> {
    let mut conn = shop.db.conn().await;
    let rows: Vec<(i64, String, i64, i64)> = sqlx::query_as(
        "select sku_id, cause::text, sum(d_on_hand)::bigint, sum(d_reserved)::bigint from ledger group by sku_id, cause",
    )
    .fetch_all(&mut conn)
    .await
    .expect("a question");
    let mut told: HashMap<SkuId, Moves> = HashMap::new();
    for (sku_id, cause, d_on_hand, d_reserved) in rows {
        let moves = told.entry(SkuId(sku_id)).or_default();
        match cause.as_str() {
            "open" => moves.opened = d_on_hand,
            "reserve" => moves.reserved = d_reserved,
            "release" => moves.released = -d_reserved,
            "expire" => moves.expired = -d_reserved,
            "commit" => assert_eq!((d_on_hand, d_reserved), (0, 0), "it was reserved before"),
            other => panic!("nobody has caused {other}"),
        }
    }
    told
}
