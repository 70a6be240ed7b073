//! Files of stock corrections: checked whole, applied once line by line, whoever buys meanwhile and whoever dies.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use futures::future::join_all;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use souk_actors::{CheckedOut, faults::Fault};

use crate::support::{
    TestEngine, basket as engine_basket, eventually, fingerprint,
    house::House,
    shop::{Answer, Api, STAFF, TestShop, basket, fresh},
};

/// SKUs with a code each, so many of each on hand; ids by their codes.
pub(crate) async fn shelf(api: &Api, count: usize, on_hand: i64) -> BTreeMap<String, String> {
    let sku = |_| json!({ "code": fresh("PART"), "price": "1.00", "on_hand": on_hand });
    let skus: Vec<Value> = (0..count).map(sku).collect();
    let product = json!({ "name": fresh("Parts"), "currency": "USD", "skus": skus });
    let made = api.order_staff("/v1/admin/products", product).await.ok();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let pair = |sku: &Value| (text(&sku["code"]), text(&sku["sku_id"]));
    made["skus"].as_array().expect("a list").iter().map(pair).collect()
}

async fn bring(api: &Api, mode: &str, key: &str, file: impl Into<reqwest::Body>) -> Answer {
    let request = api.request(Method::POST, &format!("/v1/admin/stock/imports?mode={mode}"));
    let request = request.bearer_auth(STAFF).header("content-type", "text/csv").header("idempotency-key", key);
    Answer::of(request.body(file)).await.expect("an answer")
}

/// Waits for the end of an import.
async fn finished(api: &Api, import: &Value) -> Value {
    let path = format!("/v1/admin/stock/imports/{}", import["import_id"].as_str().expect("an id"));
    let mut now = Value::Null;
    eventually("the import ends", async || {
        now = api.see(&path).await.ok();
        now["state"] != "applying"
    })
    .await;
    now
}

/// Lines and their problems, from every page.
async fn errors(api: &Api, import: &Value) -> Vec<(i64, String)> {
    let mut rows = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("{}?limit=2{cursor}", import["errors_url"].as_str().expect("a path"));
        let page = api.see(&path).await.ok();
        rows.extend(told(&page));
        let Some(next) = page["next_cursor"].as_str() else { return rows };
        cursor = format!("&cursor={next}");
    }
}

fn told(answer: &Value) -> Vec<(i64, String)> {
    let row = |row: &Value| {
        assert!(row["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{row}");
        (row["line"].as_i64().expect("a number"), row["problem"].as_str().expect("a word").to_owned())
    };
    answer["errors"].as_array().expect("a list").iter().map(row).collect()
}

fn tally(import: &Value) -> (i64, i64, i64) {
    let number = |field: &str| import[field].as_i64().expect("a number");
    (number("total"), number("applied"), number("failed"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_bad_lines_is_rejected_whole_or_taken_in_part() {
    let shop = TestShop::open().await;
    let parts = shelf(&shop, 4, 10).await;
    let codes: Vec<&str> = parts.keys().map(String::as_str).collect();
    let ids: Vec<&str> = parts.values().map(String::as_str).collect();
    shop.place(basket(&[(ids[1], 4)])).await;
    let file = format!(
        "\u{feff}Reason,delta,code\r\n\
         \"found, \"\"behind\"\"\",5,{a}\r\n\
         lost,-7,{b}\r\n\
         lost,-11,{c}\r\n\
         who knows,1,NOBODY\r\n\
         typo,one,{c}\r\n\
         nothing,0,{c}\r\n\
         much,1000000001,{c}\r\n\
         ,1,{c}\r\n\
         short,{c}\r\n\
         lost,-6,{b}\r\n\
         more,3,{a}\r\n",
        a = codes[0],
        b = codes[1],
        c = codes[2],
    );
    let want = [
        (3, "below_reserved"),
        (4, "negative_result"),
        (5, "unknown_code"),
        (6, "not_a_number"),
        (7, "zero_delta"),
        (8, "out_of_range"),
        (9, "missing_reason"),
        (10, "wrong_number_of_fields"),
    ]
    .map(|(line, problem)| (line, problem.to_owned()));

    let rejected = bring(&shop, "all", "file", file.clone()).await;
    rejected.is_problem(422, "import_invalid");
    assert_eq!(told(&rejected.body), want);
    assert_eq!(errors(&shop, &rejected.body).await, want);
    assert_eq!(finished(&shop, &rejected.body).await["state"], "rejected");
    assert_eq!((shop.stock(ids[0]).await, shop.stock(ids[1]).await), ((10, 0), (10, 4)), "nothing is applied");

    let taken = bring(&shop, "partial", "file", file).await;
    assert_eq!(taken.status, 202, "a rejected file leaves its key free: {}", taken.text);
    let taken = taken.ok();
    assert_eq!(told(&taken), want);
    let done = finished(&shop, &taken).await;
    assert_eq!((done["state"].as_str(), tally(&done)), (Some("done"), (11, 3, 8)));
    assert_eq!(errors(&shop, &taken).await, want);
    assert_eq!((shop.stock(ids[0]).await, shop.stock(ids[1]).await), ((18, 0), (4, 4)));
    let rows = shop.ledger(ids[0]).await;
    let row = |row: &Value| (row["cause"].clone(), row["d_on_hand"].clone(), row["note"].clone(), row["who"].clone());
    let told: Vec<_> = rows.iter().map(row).collect();
    assert!(told.contains(&(json!("adjust"), json!(5), json!("found, \"behind\""), json!("staff"))), "{told:?}");
    assert!(told.contains(&(json!("adjust"), json!(3), json!("more"), json!("staff"))), "{told:?}");

    let all = shop.see("/v1/admin/stock/imports?limit=1").await.ok();
    assert_eq!(all["imports"][0]["import_id"], taken["import_id"]);
    let rest =
        shop.see(&format!("/v1/admin/stock/imports?cursor={}", all["next_cursor"].as_str().expect("more"))).await;
    assert_eq!(rest.ok()["imports"][0]["import_id"], rejected.body["import_id"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_sets_what_is_as_it_expects() {
    let shop = TestShop::open().await;
    let parts = shelf(&shop, 5, 10).await;
    let codes: Vec<&str> = parts.keys().map(String::as_str).collect();
    let ids: Vec<&str> = parts.values().map(String::as_str).collect();
    shop.place(basket(&[(ids[4], 4)])).await;
    let file = format!(
        "code,set,expected,reason\n{},12,10,up\n{},7,10,down\n{},10,10,same\n{},5,9,changed\n{},3,10,reserved\n",
        codes[0], codes[1], codes[2], codes[3], codes[4]
    );
    let want = [(5, "stock_changed".to_owned()), (6, "below_reserved".to_owned())];
    let rejected = bring(&shop, "all", "sets", file.clone()).await;
    rejected.is_problem(422, "import_invalid");
    assert_eq!(told(&rejected.body), want);
    let taken = bring(&shop, "partial", "sets", file).await.ok();
    assert_eq!(tally(&finished(&shop, &taken).await), (5, 3, 2));
    let mut stock = Vec::new();
    for id in &ids {
        stock.push(shop.stock(id).await.0);
    }
    assert_eq!(stock, [12, 7, 10, 10, 10]);
    assert_eq!(shop.ledger(ids[2]).await.len(), 1, "the same is no move");

    let twice = format!("code,set,expected,reason\n{a},1,12,x\n{a},2,12,x\n{b},8,7,x\n", a = codes[0], b = codes[1]);
    let taken = bring(&shop, "partial", "twice", twice).await.ok();
    let ambiguous = [(2, "duplicate_code".to_owned()), (3, "duplicate_code".to_owned())];
    assert_eq!(told(&taken), ambiguous);
    assert_eq!(tally(&finished(&shop, &taken).await), (3, 1, 2));
    let nothing = bring(&shop, "partial", "nothing", "code,delta,reason\nNOBODY,1,x\n").await.ok();
    assert_eq!((nothing["state"].as_str(), tally(&nothing)), (Some("done"), (1, 0, 1)));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_file_of_corrections_is_refused() {
    let shop = TestShop::with(&[("SOUK_HTTP__IMPORT_LIMIT_BYTES", "100000")]).await;
    let good = "code,delta,reason\nX,1,y\n";
    bring(&shop, "all", "k", "code;delta;reason\nX;1;y\n").await.is_problem(422, "import_unreadable");
    bring(&shop, "all", "k", "").await.is_problem(422, "import_unreadable");
    bring(&shop, "all", "k", "code,delta,reason\n").await.is_problem(422, "import_unreadable");
    bring(&shop, "some", "k", good).await.is_problem(422, "invalid");
    bring(&shop, "all", "k", vec![b'x'; 100_001]).await.is_problem(413, "too_large");
    bring(&shop, "all", "k", vec![b'x'; 700_000]).await.is_problem(413, "too_large");
    let latin = bring(&shop, "all", "k", b"code,delta,reason\nX,1,caf\xe9\n".to_vec()).await;
    latin.is_problem(422, "import_invalid");
    assert_eq!(told(&latin.body), [(2, "not_utf8".to_owned())]);
    let path = "/v1/admin/stock/imports";
    shop.order_staff(path, json!({ "code": "X" })).await.is_problem(415, "not_csv");
    let anybody = shop.request(Method::POST, path).header("content-type", "text/csv").body(good);
    Answer::of(anybody).await.expect("an answer").is_problem(401, "unauthorised");
    shop.get(path).await.is_problem(401, "unauthorised");
    shop.see(&format!("{path}/import_0000000000000")).await.is_problem(404, "not_found");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_is_the_same_import() {
    let shop = TestShop::open().await;
    let parts = shelf(&shop, 1, 10).await;
    let (code, id) = parts.iter().next().expect("one");
    let file = format!("code,delta,reason\n{code},5,found\n");
    let answers = join_all((0..20).map(|_| bring(&shop, "all", "again", file.clone()))).await;
    let ids: Vec<Value> = answers.iter().map(|answer| answer.body["import_id"].clone()).collect();
    assert!(answers.iter().all(|answer| answer.status == 202) && ids.iter().all(|id| *id == ids[0]), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.header("idempotent-replayed").is_empty()).count(), 1);
    finished(&shop, &answers[0].body).await;
    assert_eq!(bring(&shop, "all", "again", file.clone()).await.ok()["import_id"], ids[0]);
    bring(&shop, "partial", "again", file.clone()).await.is_problem(422, "idempotency_key_reused");
    bring(&shop, "all", "again", format!("{file}\n{code},1,more")).await.is_problem(422, "idempotency_key_reused");
    assert_eq!(shop.stock(id).await, (15, 0));
    assert_eq!(shop.count("select count(*) from stock_import").await, 1, "nothing is left of those who came second");
    shop.close().await;
}

/// The actor crashes until it is quarantined; what was checked has changed when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_can_be_applied_no_more_at_its_turn_fails_alone() {
    let shop = TestShop::open().await;
    let parts = shelf(&shop, 4, 10).await;
    let codes: Vec<&str> = parts.keys().map(String::as_str).collect();
    let ids: Vec<&str> = parts.values().map(String::as_str).collect();
    shop.app.faults.arm("import.chunk", None, Fault::Panic, 0, 5);
    let file = format!(
        "code,set,expected,reason\n{},20,10,x\n{},5,10,x\n{},5,10,x\n{},30,10,x\n",
        codes[0], codes[1], codes[2], codes[3]
    );
    let taken = bring(&shop, "all", "late", file).await.ok();
    let name = format!("import/{}", taken["import_id"].as_str().expect("an id"));
    let quarantined = async || {
        let tree = shop.see("/v1/ops/actors").await.ok();
        let kinds = tree["children"].as_array().expect("a list").iter();
        let mut leaves = kinds.flat_map(|kind| kind["children"].as_array().into_iter().flatten());
        leaves.any(|leaf| leaf["name"] == name.as_str() && leaf["status"] == "quarantined")
    };
    eventually("it is quarantined", quarantined).await;
    // up: changed; down: changed, and also reserved; the others are as they were
    for (id, delta) in [(ids[0], 1), (ids[1], -1)] {
        let body = json!({ "delta": delta, "reason": "meanwhile" });
        shop.order_staff(&format!("/v1/admin/skus/{id}/stock"), body).await.ok();
    }
    shop.place(basket(&[(ids[2], 6)])).await;
    shop.order_staff("/v1/ops/actors/release", json!({ "name": name })).await.ok();
    let done = finished(&shop, &taken).await;
    assert_eq!(tally(&done), (4, 1, 3));
    let want = [(2, "stock_changed"), (3, "stock_changed"), (4, "below_reserved")];
    assert_eq!(errors(&shop, &taken).await, want.map(|(line, problem)| (line, problem.to_owned())));
    assert_eq!((shop.stock(ids[0]).await, shop.stock(ids[1]).await), ((11, 0), (9, 0)));
    assert_eq!((shop.stock(ids[2]).await, shop.stock(ids[3]).await), ((10, 6), (30, 0)));
    shop.close().await;
}

/// How fast is the part `import` of the figures; here, that nothing of a long file is lost or done twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_a_long_file_is_a_move_of_its_own() {
    let shop = TestShop::open().await;
    let parts = shelf(&shop, 1_000, 10).await;
    let mut file = "code,delta,reason\n".to_owned();
    for round in 1..=20 {
        file.extend(parts.keys().map(|code| format!("{code},{round},round {round}\n")));
    }
    let taken = bring(&shop, "all", "long", file).await.ok();
    let done = finished(&shop, &taken).await;
    assert_eq!((done["state"].as_str(), tally(&done)), (Some("done"), (20_000, 20_000, 0)));
    assert_eq!(shop.count("select count(*) from ledger where cause = 'adjust'").await, 20_000);
    let wrong = "select count(*) from stock where on_hand <> 10 + 210 or reserved <> 0";
    assert_eq!(shop.count(wrong).await, 0, "each has its twenty rounds, once");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buyers_and_a_file_take_from_the_same_shelf() {
    let shop = TestShop::open().await;
    let parts = shelf(&shop, 3, 200).await;
    let ids: Vec<&str> = parts.values().map(String::as_str).collect();
    let mut file = "code,delta,reason\n".to_owned();
    for _ in 0..100 {
        for code in parts.keys() {
            file.push_str(&format!("{code},-2,broken\n{code},-1,lost\n{code},1,mended\n"));
        }
    }
    let buyers = join_all((0..300).map(|number| {
        let body = basket(&[(ids[number % 3], 3)]);
        let api = shop.api.clone();
        async move { api.checkout(&fresh("buyer"), &body).await.status }
    }));
    let (bought, taken) = tokio::join!(buyers, bring(&shop, "partial", "mixed", file));
    let done = finished(&shop, &taken.ok()).await;
    assert!(bought.iter().all(|status| [201, 409].contains(status)), "{bought:?}");
    let (total, applied, failed) = tally(&done);
    assert_eq!((total, applied + failed), (900, 900));
    let (mut reserved, mut rows) = (0, 0);
    for id in &ids {
        let stock = shop.stock(id).await;
        assert!(stock.1 <= stock.0, "{stock:?}");
        reserved += stock.1;
        rows += shop.ledger(id).await.iter().filter(|row| row["cause"] == "adjust").count() as i64;
    }
    assert_eq!(reserved, 3 * bought.iter().filter(|status| **status == 201).count() as i64);
    assert_eq!(rows, applied, "every applied line is one move");
    shop.close().await;
}

/// The process dies between any two entries, or in the middle of one; the next one goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_survives_kill_9_and_happens_once() {
    let mut house = House::new(&[]);
    house.start(None).await;
    let parts = shelf(&house.api, 1_000, 10).await;
    let mut imports = Vec::new();
    for (round, fault) in
        [Some("abort:import.chunk:0"), Some("abort:import.chunk:2"), Some("abort:journal.after_commit:2"), None]
            .into_iter()
            .enumerate()
    {
        house.kill().await;
        house.start(fault).await.expect("it starts");
        let line = |code: &String| format!("{code},{},round {round}\n", if round % 2 == 0 { 5 } else { -2 });
        let file = format!("code,delta,reason\n{}", parts.keys().map(line).collect::<String>());
        let key = format!("round-{round}");
        let request = house.api.request(Method::POST, "/v1/admin/stock/imports").bearer_auth(STAFF);
        let request = request.header("content-type", "text/csv").header("idempotency-key", &key).body(file.clone());
        // it may die before it answers
        Answer::of(request).await.ok();
        if fault.is_none() {
            house.signal(Signal::SIGKILL);
        }
        house.ended().await;
        house.start(None).await;
        let taken = bring(&house.api, "all", &key, file).await.ok();
        imports.push(finished(&house.api, &taken).await);
    }
    for import in &imports {
        assert_eq!((import["state"].as_str(), tally(import)), (Some("done"), (1_000, 1_000, 0)));
    }
    let mut ids: Vec<&Value> = imports.iter().map(|import| &import["import_id"]).collect();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    for id in parts.values().step_by(37) {
        assert_eq!(house.api.stock(id).await, (16, 0));
        assert_eq!(house.api.ledger(id).await.len(), 5);
    }
    house.api.clean().await;
    house.audit();
}

/// Staff's keys are forgotten after three days; an order's own never is.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_forgotten_in_time_but_for_an_orders_own() {
    let shop = TestEngine::start().await;
    let sku_id = shop.sku(10).await;
    let checkout = engine_basket(&[(sku_id, 1)]);
    let CheckedOut::New(placed) = shop.engine.checkout(checkout.clone()).await.expect("it is there") else {
        panic!("a new one")
    };
    let adjust = |key: &str| souk_actors::Adjust {
        principal: "staff".into(),
        key: key.into(),
        fingerprint: fingerprint("more"),
        sku_id,
        correction: souk_actors::domain::Correction::By(1),
        reason: "found".into(),
    };
    shop.engine.adjust(adjust("more")).await.expect("done");
    for number in 0..600 {
        // more than one look forgets
        shop.engine.adjust(adjust(&format!("many-{number}"))).await.expect("done");
    }
    let kept = "select count(*) from idempotency";
    shop.later(TimeDelta::hours(71));
    shop.engine.adjust(adjust("late")).await.expect("done");
    shop.engine.adjust(adjust("more")).await.expect("done before");
    assert_eq!(shop.count(kept).await, 603);
    assert_eq!(shop.stock(sku_id).await.0, 612, "each key once: {placed:?}");
    shop.later(TimeDelta::hours(2));
    eventually("old keys are forgotten", async || {
        shop.later(TimeDelta::seconds(1)); // so that it looks again
        shop.count(kept).await == 2
    })
    .await;
    assert_eq!(shop.engine.checkout(checkout).await, Ok(CheckedOut::Replayed(placed.order_id)));
    shop.engine.adjust(adjust("more")).await.expect("as if new");
    assert_eq!(shop.stock(sku_id).await.0, 613);
    shop.end().await;
}

/// What came to nothing is not kept for ever either: a rejected file, and one whose process died while it was staged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_that_came_to_nothing_are_swept_up() {
    let shop = TestShop::open().await;
    let parts = shelf(&shop, 1, 10).await;
    let file = format!("code,delta,reason\n{},1,x\n", parts.keys().next().expect("one"));
    let done = finished(&shop, &bring(&shop, "all", "good", file).await.ok()).await;
    let bad = "code,delta,reason\n".to_owned() + &"NOBODY,1,x\n".repeat(700);
    bring(&shop, "all", "bad", bad).await.is_problem(422, "import_invalid");
    let half = "insert into stock_import (id, mode, state, total, created_at) select 1, 'all', 'staged', 9, created_at
                from stock_import limit 1";
    sqlx::query(half).execute(&mut shop.db.conn().await).await.expect("a row");
    shop.later(73 * 3_600).await;
    eventually("they are gone", async || {
        shop.later(1).await; // so that it looks again
        shop.count("select count(*) from stock_import").await == 1
    })
    .await;
    assert_eq!(shop.count("select count(*) from stock_import_line").await, 1);
    assert_eq!(tally(&finished(&shop, &done).await), (1, 1, 0));
    shop.close().await;
}
