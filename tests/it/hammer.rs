//! The load tester, run as people run it: what it counts, what its verdict finds, and that it lives through the deaths of
//! the shop that it drives. `make soak` is the last story, for as long as wanted.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Output},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::support::{eventually, house::House, shop::TestShop};

/// A hammer for a shop that runs elsewhere: the house lends its program, its settings and its directory.
struct Hammer {
    house: House,
    url: String,
}

impl Hammer {
    fn of(shop: &TestShop) -> Self {
        Self::at(shop.base.clone())
    }

    fn at(url: String) -> Self {
        Self { house: House::new(&[]), url }
    }

    fn journal(&self) -> PathBuf {
        self.house.dir().join("journal")
    }

    /// Runs it to its end, beside the shop's own runtime.
    async fn run(&self, arguments: &[&str]) -> (i32, Value) {
        let mut hammer = self.house.souk(&["hammer"]);
        hammer.args(arguments).args(["--url", &self.url, "--json"]);
        read(tokio::task::spawn_blocking(move || hammer.output().expect("souk runs")).await.expect("it ends"))
    }

    async fn load(&self, arguments: &[&str]) -> (i32, Value) {
        let journal = self.journal();
        let with_journal = [arguments, &["--journal", journal.to_str().expect("UTF-8"), "--seed", "7"]].concat();
        self.run(&with_journal).await
    }

    async fn check(&self) -> (i32, Value) {
        self.run(&["check", self.journal().to_str().expect("UTF-8")]).await
    }
}

fn read(output: Output) -> (i32, Value) {
    let err = String::from_utf8_lossy(&output.stderr);
    let said = serde_json::from_slice(&output.stdout);
    let said = said.unwrap_or_else(|_| panic!("{}\n{err}", String::from_utf8_lossy(&output.stdout)));
    (output.status.code().expect("it was not killed"), said)
}

/// Stands in for a shop whose only SKU is sold out: the nth checkout hears the nth of these answers, the last one for ever,
/// and so does who looks at products. Status 0 is no answer at all.
async fn stub(answers: &'static [(u16, &'static str)], looks: &'static [u16]) -> String {
    let heard = |count: &AtomicU64, most: usize| (count.fetch_add(1, Ordering::SeqCst) as usize).min(most - 1);
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let app = Router::new().fallback(async move |method: Method, uri: Uri| match (method, uri.path()) {
        (Method::POST, "/v1/checkouts") => {
            let (status, code) = answers[heard(&counts[0], answers.len())];
            say(status, json!({ "code": code })).await
        }
        (Method::GET, "/v1/products") => say(looks[heard(&counts[1], looks.len())], json!({})).await,
        (Method::POST, _) => say(201, json!({ "skus": [{ "sku_id": "sku_1" }] })).await,
        (_, "/v1/admin/orders") => say(200, json!({ "orders": [] })).await,
        (_, "/v1/ops/audit") => say(200, json!({ "findings": [] })).await,
        _ => say(200, json!({ "stock": { "on_hand": 0, "reserved": 0 }, "rows": [] })).await,
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

async fn say(status: u16, body: Value) -> Response {
    if status == 0 {
        std::future::pending::<()>().await;
    }
    (StatusCode::from_u16(status).expect("a status"), Json(body)).into_response()
}

/// The checks that failed.
fn failed(verdict: &Value) -> Vec<&str> {
    let checks = verdict["checks"].as_array().expect("a list").iter();
    checks.filter(|check| check["ok"] == false).filter_map(|check| check["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flash_sale_sells_out_exactly_and_a_lie_about_it_is_found() {
    let shop = TestShop::open().await;
    let hammer = Hammer::of(&shop);
    let (code, report) = hammer
        .load(&["flash-sale", "--buyers", "200", "--stock", "150", "--quantity", "2", "--connections", "16"])
        .await;
    assert_eq!((code, &report["verdict"]["ok"]), (0, &json!(true)), "{report:#}");
    assert_eq!((&report["accepted"], &report["sold_out"], &report["buyers"]), (&json!(75), &json!(125), &json!(200)));
    assert_eq!((&report["refused"], &report["errors"]), (&json!(0), &json!({})));
    let accepted = &report["answers"]["accepted"];
    assert!(accepted["p50"].as_f64() > Some(0.0) && accepted["p50"].as_f64() <= accepted["max"].as_f64(), "{accepted}");
    let names: Vec<&str> = report["verdict"]["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|check| check["name"].as_str())
        .collect();
    assert_eq!(names, ["exist", "told", "open", "stock", "sold", "audit"]);

    let truth = fs::read_to_string(hammer.journal()).expect("a journal");
    let lines: Vec<Value> = truth.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let sku_id = lines[1]["sku"]["sku_id"].as_str().expect("an id");
    assert_eq!((shop.stock(sku_id).await, shop.orders().await.len()), ((150, 150), 75));
    assert_eq!(hammer.check().await.0, 0, "it may be asked again");

    // each lie is found by the checks that are there for it
    let at = lines.iter().position(|line| line.get("placed").is_some()).expect("an acknowledgement");
    let placed = |change: &dyn Fn(&mut Value)| {
        let mut lines = lines.clone();
        change(&mut lines[at]["placed"]);
        lines
    };
    let mut silent = lines.clone();
    silent.remove(at);
    let mut hasty = lines.clone();
    hasty[1]["sku"]["on_hand"] = json!(170);
    let lies: [(&str, Vec<Value>, &[&str]); 6] = [
        (
            "an order that does not exist",
            placed(&|one| one["order_id"] = json!("order_0000000000000")),
            &["exist", "open", "stock"][..],
        ),
        ("a buyer who was told nothing", placed(&|one| one["number"] = json!(100_000)), &["exist", "told"]),
        ("a token of another order", placed(&|one| one["token"] = json!("bm9ib2R5")), &["open"]),
        ("more units than were bought", placed(&|one| one["lines"][0][1] = json!(3)), &["open", "stock", "sold"]),
        ("an order without an acknowledgement", silent, &["told"]),
        ("stock that was never there", hasty, &["stock"]),
    ];
    for (what, lines, wanted) in lies {
        let text: Vec<String> = lines.iter().map(Value::to_string).collect();
        fs::write(hammer.journal(), text.join("\n") + "\n").expect("a journal");
        let (code, verdict) = hammer.check().await;
        assert_eq!((code, failed(&verdict)), (1, wanted.to_vec()), "{what}: {verdict:#}");
    }

    // what is in the journal from before is judged with the next run
    fs::write(hammer.journal(), truth.replacen(r#""number":"#, r#""number":9"#, 1)).expect("a journal");
    let (code, report) = hammer.load(&["flash-sale", "--buyers", "5", "--stock", "9"]).await;
    assert_eq!((code, failed(&report["verdict"])), (1, vec!["exist", "told"]), "{report:#}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_plays_and_is_judged() {
    let shop = TestShop::open().await;
    let hammer = Hammer::of(&shop);
    let baskets = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/baskets.csv");
    let (code, report) = hammer.load(&["baskets", baskets, "--buyers", "60", "--stock", "3"]).await;
    assert_eq!(code, 0, "{report:#}");
    let (accepted, sold_out) = (report["accepted"].as_u64(), report["sold_out"].as_u64());
    assert!(accepted > Some(10) && sold_out > Some(0), "{accepted:?} {sold_out:?}");

    let many = ["spread", "--skus", "30", "--zipf", "1", "--buyers", "80", "--rate", "400", "--arrivals", "fixed"];
    let (code, report) = hammer.load(&many).await;
    assert_eq!((code, &report["accepted"], &report["left_outside"]), (0, &json!(80), &json!(0)), "{report:#}");
    assert!(report["seconds"].as_f64() > Some(0.19), "80 at 400 a second: {report:#}");

    let bank = shop.bank.base.as_str();
    let visits =
        ["mixed", "--buyers", "40", "--connections", "8", "--skus", "4", "--sandbox-url", bank, "--cancel", "20"];
    let (code, report) = hammer.load(&visits).await;
    assert_eq!((code, &report["accepted"]), (0, &json!(40)), "{report:#}");
    let count = |kind: &str| report["answers"][kind]["count"].as_u64().unwrap_or_default();
    assert!(count("browsed") == 80 && count("approved") > 15 && count("called off") > 2, "{report:#}");
    let late = report["errors"]["paid, not confirmed while the buyer waited"].as_u64().unwrap_or_default();
    assert_eq!(count("confirmed") + late, count("approved"), "{report:#}");
    assert!(
        shop.orders().await.iter().filter(|order| order["status"] == "confirmed").count() as u64 == count("approved")
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_paid_and_neither_sold_nor_paid_back_is_found() {
    let shop = TestShop::open().await;
    let hammer = Hammer::of(&shop);
    let visits = ["mixed", "--buyers", "4", "--skus", "1", "--pay", "0", "--cancel", "100"];
    let (code, report) = hammer.load(&[&visits[..], &["--sandbox-url", &shop.bank.base]].concat()).await;
    assert_eq!((code, &report["accepted"]), (0, &json!(4)), "{report:#}");
    let truth = fs::read_to_string(hammer.journal()).expect("a journal");
    let lines: Vec<Value> = truth.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let at = lines.iter().position(|line| line.get("placed").is_some()).expect("an acknowledgement");

    let mut locked = lines.clone();
    locked[at]["placed"]["token"] = json!("bm9ib2R5");
    locked.push(json!({ "paid": locked[at]["placed"]["number"] }));
    let stray = [lines, vec![json!({ "paid": 77 })]].concat();
    for (what, lines, wanted) in [
        ("an order that does not open", locked, &["open", "paid"][..]),
        ("an order that nobody acknowledged", stray, &["paid"][..]),
    ] {
        let text: Vec<String> = lines.iter().map(Value::to_string).collect();
        fs::write(hammer.journal(), text.join("\n") + "\n").expect("a journal");
        let (code, verdict) = hammer.check().await;
        assert_eq!((code, failed(&verdict)), (1, wanted.to_vec()), "{what}: {verdict:#}");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_no_buyer_should_get_is_no_success_and_a_rule_of_the_sale_is_no_error() {
    let sale = ["flash-sale", "--stock", "0", "--buyers", "20", "--connections", "4"];
    for wrong in [(404, "not_found"), (422, "invalid"), (409, "quote_changed")] {
        let answers: &'static [(u16, &str)] = Box::leak(Box::new([(409, "out_of_stock"), wrong]));
        let hammer = Hammer::at(stub(answers, &[200]).await);
        let (code, report) = hammer.load(&sale).await;
        assert_eq!((code, failed(&report["verdict"]), &report["wrong"]), (1, vec!["wrong"], &json!(19)), "{report:#}");
        let (code, verdict) = hammer.check().await;
        assert_eq!((code, failed(&verdict)), (1, vec!["wrong"]), "it stands in the journal: {verdict:#}");
    }
    let rules = [(409, "limit_reached"), (409, "sale_not_started"), (403, "ticket_required"), (409, "not_admitted")];
    for rule in rules {
        let hammer = Hammer::at(stub(Box::leak(Box::new([rule])), &[200]).await);
        let (code, report) = hammer.load(&sale).await;
        assert_eq!((code, failed(&report["verdict"]), &report["wrong"]), (1, vec!["wrong"], &json!(20)), "{report:#}");
        // of a SKU that was there before
        fs::remove_file(hammer.journal()).expect("a journal");
        let known = ["flash-sale", "--sku", "sku_1", "--buyers", "20", "--connections", "4"];
        let (code, report) = hammer.load(&known).await;
        assert_eq!((code, &report["errors"], &report["not_for_you"]), (0, &json!({}), &json!(20)), "{report:#}");
        assert_eq!(report["answers"]["not for you"]["count"], 20, "{report:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_whose_pages_are_not_found_is_no_success() {
    let visits = ["mixed", "--skus", "1", "--stock", "0", "--buyers", "10", "--connections", "2"];
    for (looks, wanted) in [(&[404][..], vec!["wrong"]), (&[401], vec!["wrong"]), (&[503], vec![]), (&[200], vec![])] {
        let hammer = Hammer::at(stub(&[(409, "out_of_stock")], looks).await);
        let (_, report) = hammer.load(&visits).await;
        assert_eq!(failed(&report["verdict"]), wanted, "{looks:?} {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_never_let_in_is_among_the_latencies() {
    let hammer = Hammer::at(stub(&[(0, ""), (409, "out_of_stock")], &[200]).await);
    let open = ["--connections", "1", "--rate", "100", "--arrivals", "fixed", "--timeout", "0.4", "--seconds", "0.3"];
    let (_, report) = hammer.load(&[&["flash-sale", "--stock", "0"][..], &open].concat()).await;
    let outside = report["left_outside"].as_u64().expect("a number");
    let waits = &report["answers"]["left outside"];
    assert!(outside > 20 && waits["count"].as_u64() == Some(outside), "{report:#}");
    assert!(waits["max"].as_f64() > Some(200.0), "counted to the end: {report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_counts_from_when_each_buyer_came() {
    let open = ["--connections", "1", "--rate", "1000", "--arrivals", "fixed", "--timeout", "0.4"];
    let half = |report: &Value, kind: &str| report["answers"][kind]["p50"].as_f64().unwrap_or_default();

    // the first gets no answer, and asks again when it is over
    let hammer = Hammer::at(stub(&[(0, ""), (409, "out_of_stock")], &[200]).await);
    let (code, report) = hammer.load(&[&["flash-sale", "--stock", "0", "--buyers", "3"][..], &open].concat()).await;
    assert_eq!((code, &report["sold_out"]), (0, &json!(3)), "{report:#}");
    for kind in ["no answer", "sold out", "sold out, asked again"] {
        assert!(half(&report, kind) > 390.0, "{kind}: {report:#}");
    }

    // the first looks around in vain, and the others check out late
    let hammer = Hammer::at(stub(&[(409, "out_of_stock")], &[0, 200]).await);
    let (code, report) =
        hammer.load(&[&["mixed", "--skus", "1", "--stock", "0", "--buyers", "3"][..], &open].concat()).await;
    assert_eq!((code, &report["sold_out"]), (0, &json!(3)), "{report:#}");
    for kind in ["no answer, browsing", "sold out"] {
        assert!(half(&report, kind) > 390.0, "{kind}: {report:#}");
    }
}

#[tokio::test]
async fn what_cannot_be_hammered_is_said_in_one_line() {
    let house = House::new(&[]);
    let refusals: [(&[&str], &str); 4] = [
        (&["hammer", "flash-sale"], "no shop answers at"),
        (&["hammer", "spread", "--url", "https://shop.example"], "http://"),
        (&["hammer", "baskets", "missing.csv"], "missing.csv"),
        (&["hammer", "check", "missing"], "missing"),
    ];
    for (arguments, said) in refusals {
        let answer = house.run(arguments);
        let err = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert_eq!((answer.status.code(), err.lines().count()), (Some(1), 1), "{arguments:?}: {err}");
        assert!(err.starts_with("souk: ") && err.contains(said), "{err}");
    }
    for wrong in [&["hammer"][..], &["hammer", "spread", "--skus", "0"]] {
        assert_eq!(house.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    for rate in ["0", "1e-300", "0.009", "1000001", "1e300", "NaN", "inf"] {
        let answer = house.run(&["hammer", "flash-sale", "--rate", rate]);
        let err = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(answer.status.code() == Some(2) && err.contains("from 0.01 to 1000000"), "{rate}: {err}");
    }
}

// ── the soak ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Engine,
    Postgres,
    Both,
}

/// How long the last verdicts may take.
const VERDICTS: Duration = Duration::from_secs(900);
/// How often a hammer is started that finds the shop down.
const STARTS: usize = 5;

/// A hammer at work; what it says goes into files of the house.
struct Striker {
    name: String,
    hammer: Child,
}

impl Striker {
    /// Starts one, and returns when its shelves are full: what is not on sale yet cannot be asked for twice. One that a shop
    /// just killed did not let begin is started again.
    async fn start(house: &House, name: &str, arguments: &[&str]) -> Self {
        for _ in 0..STARTS {
            let mut striker = Self::try_to_start(house, name, arguments);
            let journal = house.dir().join(format!("{name}.jsonl"));
            let has_begun = || fs::metadata(&journal).is_ok_and(|file| file.len() > 0);
            eventually("the sale begins", async || has_begun() || !striker.is_at_work()).await;
            if has_begun() {
                return striker;
            }
        }
        panic!(
            "{name} cannot begin: {}",
            fs::read_to_string(house.dir().join(format!("{name}.err"))).unwrap_or_default()
        );
    }

    fn try_to_start(house: &House, name: &str, arguments: &[&str]) -> Self {
        let file = |end: &str| File::create(house.dir().join(format!("{name}.{end}"))).expect("a file");
        let journal = house.dir().join(format!("{name}.jsonl"));
        let mut hammer = house.souk(&["hammer"]);
        hammer.args(arguments).arg("--json").arg("--journal").arg(&journal).stdout(file("json")).stderr(file("err"));
        Self { name: name.to_owned(), hammer: hammer.spawn().expect("souk runs") }
    }

    fn is_at_work(&mut self) -> bool {
        self.hammer.try_wait().expect("it is our child").is_none()
    }

    /// Waits for its verdict, which must be good.
    async fn end(mut self, dir: &Path) -> Value {
        let patience = Instant::now() + VERDICTS;
        while self.is_at_work() && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.hammer.kill().ok(); // it has ended, or never will
        let code = self.hammer.wait().expect("it is our child").code();
        let text = |end: &str| fs::read_to_string(dir.join(format!("{}.{end}", self.name))).unwrap_or_default();
        assert_eq!(code, Some(0), "{}: {}\n{}", self.name, text("json"), text("err"));
        serde_json::from_str(&text("json")).expect("JSON")
    }
}

/// Hammers a house of its own for so long, kills it again and again, and then wants every word kept.
async fn soak(seconds: u64, seed: u64) {
    println!("soak: {seconds} seconds, seed {seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    // in a long soak some holds run out while others still buy
    let hold = if seconds > 300 { "120" } else { "900" };
    let mut house = House::new(&[("SOUK_CHECKOUT__HOLD_SECONDS", hold)]);
    house.start(None).await;
    let (began, length) = (Instant::now(), Duration::from_secs(seconds));

    let time = seconds.to_string();
    let visits = ["mixed", "--skus", "50", "--zipf", "1", "--rate", "40", "--connections", "64", "--seconds", &time];
    let sale = ["flash-sale", "--stock", "500", "--buyers", "2000", "--connections", "32"];
    let mut strikers =
        vec![Striker::start(&house, "visits", &visits).await, Striker::start(&house, "sale-1", &sale).await];
    let mut kills: BTreeMap<Victim, Vec<Duration>> = BTreeMap::new();
    // the last blow leaves time to stand up again while buyers still come
    while began.elapsed() + Duration::from_secs(3) < length {
        if !strikers.last_mut().expect("at least two").is_at_work() {
            let name = format!("sale-{}", strikers.len());
            strikers.push(Striker::start(&house, &name, &sale).await);
        }
        tokio::time::sleep(Duration::from_millis(dice.u64(500..5_000))).await;
        let victim = [Victim::Engine, Victim::Postgres, Victim::Both][dice.usize(0..3)];
        kills.entry(victim).or_default().push(strike(&mut house, victim).await);
    }

    let mut sum = BTreeMap::<&str, u64>::new();
    for striker in strikers {
        let report = striker.end(house.dir()).await;
        for figure in ["buyers", "accepted", "sold_out", "refused", "unanswered"] {
            *sum.entry(figure).or_default() += report[figure].as_u64().expect("a number");
        }
        println!("{}: {}", report["scenario"], report["errors"]);
    }
    house.api.clean().await;
    house.audit();
    for (victim, mut took) in kills {
        took.sort_unstable();
        let median = took[took.len() / 2];
        println!(
            "{victim:?} killed {} times; ready after {:?} to {:?}, median {median:?}",
            took.len(),
            took[0],
            took[took.len() - 1]
        );
    }
    println!("{sum:?}");
    assert!(sum["accepted"] > 0 && sum["unanswered"] == 0, "{sum:?}");
}

/// Kills, starts what does not start by itself, and waits until the shop serves; how long that took.
async fn strike(house: &mut House, victim: Victim) -> Duration {
    let began = Instant::now();
    let dead = (victim != Victim::Engine).then(|| kill_postgres(house)).flatten();
    if victim != Victim::Postgres {
        house.kill().await;
        house.start(None).await;
    }
    eventually("the shop serves, on a Postgres that lives", async || {
        assert!(house.has_ended().is_none(), "the shop itself goes on:\n{}", house.log());
        house.postmaster() != dead && house.is_ready().await
    })
    .await;
    began.elapsed()
}

/// Only if it is the house's own: a pid file outlives its server, and a pid may be somebody else's by then.
fn kill_postgres(house: &House) -> Option<Pid> {
    let postmaster = house.postmaster()?;
    let line = fs::read_to_string(format!("/proc/{postmaster}/cmdline")).ok()?;
    let is_ours = line.contains(house.dir().to_str().expect("UTF-8"));
    is_ours.then(|| kill(postmaster, Signal::SIGKILL).expect("it is ours"))?;
    Some(postmaster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_is_killed_under_the_hammer_keeps_its_word() {
    soak(20, 7).await;
}

/// `make soak`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as SOUK_SOAK_SECONDS says"]
async fn soaked() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a whole number"));
    soak(number("SOUK_SOAK_SECONDS").unwrap_or(600), number("SOUK_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..)))
        .await;
}
