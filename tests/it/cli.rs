//! The command line, run as people run it: every command, every refusal, every exit code.

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    process::{Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{pty::openpty, sys::signal::Signal};
use sqlx::{ConnectOptions, Connection};

use crate::{
    imports::shelf,
    support::{
        TestDb, eventually,
        house::House,
        shop::{Bank, TestShop, basket, fresh, paid_basket},
    },
};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A URL of a test's database: the path of its socket, percent-encoded.
fn url(db: &TestDb) -> String {
    let options = db.connect.to_url_lossy();
    options.to_string()
}

#[test]
fn every_command_explains_itself() {
    let house = House::new(&[]);
    let help = house.run(&["--help"]);
    assert!(help.status.success());
    for command in ["serve", "sandbox", "migrate", "seed", "import", "tree", "dead-letters", "hammer", "audit"] {
        assert!(out(&help).contains(command), "{}", out(&help));
        let own = house.run(&[command, "--help"]);
        assert!(own.status.success() && out(&own).contains(&format!("Usage: souk {command}")), "{}", out(&own));
    }
    assert!(out(&house.run(&["--version"])).starts_with("souk "));
    for wrong in [&[][..], &["sell"], &["serve", "--surplus"], &["tree", "--limit", "x"]] {
        let answer = house.run(wrong);
        assert_eq!(answer.status.code(), Some(2), "{wrong:?}");
        assert!(err(&answer).contains("--help") || err(&answer).contains("Usage"), "{}", err(&answer));
    }
    assert!(!house.dir().join("souk").exists(), "asking for help starts nothing");
}

#[test]
fn what_is_wrong_with_settings_is_named() {
    let house = House::new(&[]);
    let refused = |arguments: &[&str], settings: &[(&str, &str)], named: &[&str]| {
        let answer = house.souk(arguments).envs(settings.iter().copied()).output().expect("souk runs");
        assert_eq!(answer.status.code(), Some(1), "{settings:?}: {}", err(&answer));
        let said = err(&answer);
        for word in named {
            assert!(said.contains(word), "{word} in {said}");
        }
        assert!(said.starts_with("souk: ") && !said.contains("panicked"), "{said}");
    };
    refused(&["serve"], &[("SOUK_HTTP__LISTNE", "x")], &["SOUK_HTTP__LISTNE", "http.listne"]);
    refused(&["serve"], &[("SOUK_DATABASE__POOL", "many")], &["SOUK_DATABASE__POOL", "whole number"]);
    refused(&["serve"], &[("SOUK_MODE", "prodution")], &["prodution", "mode"]);
    refused(&["serve"], &[("SOUK_DATABASE__URL", "nonsense")], &["database.url"]);
    refused(&["serve"], &[("SOUK_CHECKOUT__HOLD_SECONDS", "0")], &["hold_seconds"]);
    let latin = OsStr::from_bytes(b"caf\xe9");
    let answer = house.souk(&["serve"]).env("SOUK_MODE", latin).output().expect("souk runs");
    assert_eq!((answer.status.code(), err(&answer)), (Some(1), "souk: SOUK_MODE: is not UTF-8\n".to_owned()));
    let foreign = house.souk(&["tree"]).env("CAFE", latin).output().expect("souk runs");
    assert!(err(&foreign).contains("no shop answers at"), "{}", err(&foreign));
    refused(&["--config", "missing.toml", "serve"], &[], &["missing.toml"]);
    for (text, named) in [
        ("[http]\nlisten = 1", "listen"),
        ("[htpt]\n", "htpt"),
        ("[http]\nlitsen = \"x\"", "http.litsen"),
        ("[", "own.toml"),
    ] {
        std::fs::write(house.dir().join("own.toml"), text).expect("a file");
        let answer = house.run(&["--config", "own.toml", "serve"]);
        assert_eq!(answer.status.code(), Some(1), "{text}");
        assert!(err(&answer).contains(named) && err(&answer).contains("own.toml"), "{text}: {}", err(&answer));
    }

    // production takes no sandbox, no faults, and no secrets that it does not have
    let production = [
        ("SOUK_MODE", "production"),
        ("SOUK_PAYPAL__BASE_URL", "https://api-m.paypal.com"),
        ("SOUK_PAYPAL__CERT_URLS", "https://api-m.paypal.com/v1/notifications/certs/"),
        ("SOUK_PAYPAL__CLIENT_ID", "an id of our own"),
        ("SOUK_PAYPAL__WEBHOOK_ID", "1JE4291016473214C"),
        ("SOUK_PAYPAL__CLIENT_SECRET", "x"),
        ("SOUK_HTTP__PUBLIC_URL", "https://shop.example"),
        ("SOUK_SECRET", "0123456789abcdef0123456789abcdef"),
    ];
    refused(&["serve"], &[("SOUK_MODE", "production")], &["production", "paypal.base_url"]);
    let with = |name: &'static str, value: &'static str| {
        let mut settings = production.to_vec();
        settings.retain(|(known, _)| *known != name);
        settings.push((name, value));
        settings
    };
    refused(&["serve"], &with("SOUK_FAULT", "abort:sku.hold:0"), &["SOUK_FAULT"]);
    refused(&["sandbox"], &with("SOUK_FAULT", ""), &["sandbox", "production"]);
    refused(&["serve"], &with("SOUK_SECRET", "short"), &["SOUK_SECRET"]);
    refused(&["serve"], &with("SOUK_PAYPAL__WEBHOOK_ID", "WH-SOUK"), &["paypal.webhook_id"]);
    refused(&["serve"], &with("SOUK_PAYPAL__ROOTS", "root.pem"), &["paypal.roots"]);
    refused(&["serve"], &with("SOUK_STAFF_TOKEN", "short"), &["SOUK_STAFF_TOKEN"]);
    refused(&["serve"], &with("SOUK_HTTP__PUBLIC_URL", "http://shop.example"), &["public_url"]);
    assert!(!house.dir().join("souk").exists(), "nothing was started");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_twice_and_auditing() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    shop.sold(&sku_id).await;
    let house = House::new(&[("SOUK_DATABASE__URL", &url(&shop.db))]);
    for _ in 0..2 {
        let migrated = house.run(&["migrate"]);
        assert!(migrated.status.success() && out(&migrated).contains("up to date"), "{}", err(&migrated));
    }
    let audit = house.run(&["audit"]);
    assert!(audit.status.success() && out(&audit).starts_with("Clean: "), "{}{}", out(&audit), err(&audit));

    // each harm is found, named, and told to the shell
    let mut conn = shop.db.conn().await;
    for (harm, check) in [
        ("update stock set on_hand = on_hand + 1 where sku_id = (select max(sku_id) from stock)", "stock-is-ledger"),
        ("update reservation set state = 'released'", "stock-is-reservations"),
        ("update stock set unpaid = 1 where reserved > 0", "unpaid-is-held"),
        ("update customer_order set total_minor = total_minor + 1", "total-is-lines"),
        ("update payment_fact set amount_minor = 1 where kind = 'capture'", "confirmed-is-paid"),
        ("delete from idempotency", "order-has-key"),
        ("delete from order_event where kind = 'payment_announced'", "timeline-whole"),
    ] {
        let found = {
            let backup = "create table kept as select * from stock; create table kept_parts as select * from reservation;
                create table kept_orders as select * from customer_order; create table kept_facts as select * from payment_fact;
                create table kept_keys as select * from idempotency; create table kept_events as select * from order_event";
            sqlx::raw_sql(backup).execute(&mut conn).await.expect("a copy");
            sqlx::raw_sql(harm).execute(&mut conn).await.expect("harm is done");
            let found = house.run(&["audit"]);
            let restore = "truncate stock, reservation, customer_order, payment_fact, idempotency, order_event;
                insert into stock select * from kept; insert into reservation select * from kept_parts;
                insert into customer_order select * from kept_orders; insert into payment_fact select * from kept_facts;
                insert into idempotency select * from kept_keys; insert into order_event select * from kept_events;
                drop table kept, kept_parts, kept_orders, kept_facts, kept_keys, kept_events";
            sqlx::raw_sql(restore).execute(&mut conn).await.expect("the copy is back");
            found
        };
        assert_eq!(found.status.code(), Some(1), "{harm}");
        assert!(out(&found).contains(&format!("{check}: not true that")), "{harm}: {}", out(&found));
    }
    assert!(house.run(&["audit"]).status.success());
    conn.close().await.ok();
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_is_opened_looked_at_and_closed_by_its_owner() {
    let mut house = House::new(&[]);
    for command in ["tree", "seed"] {
        let nobody = house.run(&[command]);
        assert_eq!(nobody.status.code(), Some(1), "{command}");
        assert!(err(&nobody).contains("no shop answers at"), "{command}: {}", err(&nobody));
    }
    house.start(None).await;
    assert!(house.log().contains("Souk serves at http://127.0.0.1:"), "{}", house.log());
    let seeded = house.run(&["seed"]);
    assert!(seeded.status.success() && out(&seeded).contains("sells something already"), "{}", err(&seeded));
    assert_eq!(house.api.get("/v1/products").await.ok()["products"].as_array().map(Vec::len), Some(8));

    let sku_id = house.api.sku(5).await;
    house.api.place(basket(&[(&sku_id, 1)])).await;
    let tree = house.run(&["tree"]);
    let drawn = out(&tree);
    assert!(tree.status.success() && drawn.starts_with("souk  running\n├─ journal  running"), "{drawn}{}", err(&tree));
    assert!(drawn.contains(&format!("sku/{sku_id}")) && drawn.contains("└─ reconciler"), "{drawn}");
    let wrong = house.souk(&["tree"]).env("SOUK_STAFF_TOKEN", "somebody else's").output().expect("souk runs");
    assert_eq!(wrong.status.code(), Some(1));

    // a port that is taken is found out before anything is touched
    let taken = house.run(&["serve"]);
    assert_eq!(taken.status.code(), Some(1));
    assert!(err(&taken).contains("http.listen"), "{}", err(&taken));
    assert_eq!(house.api.get("/readyz").await.status, 200);

    house.signal(Signal::SIGINT);
    assert_eq!(house.ended().await.code(), Some(0), "{}", house.log());
    assert_eq!(house.postmaster(), None, "its Postgres was stopped with it");
    assert!(reqwest::get(format!("{}/_sandbox/health", house.bank.base)).await.is_err(), "and its sandbox");
    // and everything is there when it opens again
    house.start(None).await;
    assert_eq!(house.api.stock(&sku_id).await, (5, 1));
    house.audit();
}

/// A shop that runs, and files that a `souk` of another house brings into it.
struct Desk {
    shop: TestShop,
    house: House,
}

impl Desk {
    async fn open() -> Self {
        Self { shop: TestShop::open().await, house: House::new(&[]) }
    }

    /// `souk import stock`: its exit code, and what it says and complains of.
    fn import(&self, file: &str, options: &[&str]) -> (Option<i32>, String, String) {
        let arguments = [&["import", "stock", file, "--url", &self.shop.base], options].concat();
        let output = self.house.run(&arguments);
        (output.status.code(), out(&output), err(&output))
    }

    fn file(&self, name: &str, lines: &str) {
        std::fs::write(self.house.dir().join(name), lines).expect("a file");
    }

    async fn on_hand(&self, ids: &[&String]) -> Vec<i64> {
        let mut on_hand = Vec::new();
        for id in ids {
            on_hand.push(self.shop.stock(id).await.0);
        }
        on_hand
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_corrections_is_brought_into_a_running_shop_once() {
    let desk = Desk::open().await;
    let parts = shelf(&desk.shop, 3, 10).await;
    let (codes, ids): (Vec<&String>, Vec<&String>) = parts.iter().unzip();
    desk.file("moves.csv", &format!("code,delta,reason\n{},5,found\n{},-2,lost\n", codes[0], codes[1]));
    desk.file("count.csv", &format!("code,set,expected,reason\n{},7,10,counted\n", codes[2]));
    for (file, lines, on_hand) in [("moves.csv", 2, [15, 8, 10]), ("count.csv", 1, [15, 8, 7])] {
        let (code, said, complaint) = desk.import(file, &[]);
        assert_eq!((code, complaint.as_str()), (Some(0), ""), "{said}");
        let told = format!(": {lines} of {lines} lines applied, 0 failed.\n");
        assert!(said.starts_with("import_") && said.ends_with(&told) && said.lines().count() == 1, "{said}");
        assert_eq!(desk.on_hand(&ids).await, on_hand, "{file}");

        // whoever is unsure says it again
        let (code, again, _) = desk.import(file, &[]);
        let warned = "This file was brought before; nothing is applied again. Give another --key to apply it again.\n";
        assert_eq!((code, again), (Some(0), format!("{warned}{said}")));
        assert_eq!(desk.on_hand(&ids).await, on_hand, "{file}");
    }

    // with a key of one's own it is applied once a key, and a key is one file's
    for on_hand in [[20, 6, 7], [20, 6, 7]] {
        let (code, said, _) = desk.import("moves.csv", &["--key", "monday"]);
        assert!(code == Some(0) && said.ends_with(": 2 of 2 lines applied, 0 failed.\n"), "{said}");
        assert_eq!(desk.on_hand(&ids).await, on_hand);
    }
    let (code, said, complaint) = desk.import("count.csv", &["--key", "monday"]);
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert!(complaint.starts_with("souk: idempotency_key_reused: "), "{complaint}");
    desk.shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_bad_lines_is_told_by_their_numbers_and_to_the_shell() {
    let desk = Desk::open().await;
    let parts = shelf(&desk.shop, 2, 10).await;
    let (codes, ids): (Vec<&String>, Vec<&String>) = parts.iter().unzip();
    let (first, other) = (codes[0], codes[1]);
    desk.file(
        "bad.csv",
        &format!("code,delta,reason\n{first},5,found\nNOBODY,1,found\n{other},x,typo\n{other},-11,lost\n"),
    );
    let numbers = |said: &str| {
        let lines = said.lines().filter(|line| line.starts_with("line "));
        lines.map(|line| line.splitn(4, ": ").take(3).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    let bad = [
        "line 3 NOBODY unknown_code".to_owned(),
        format!("line 4 {other} not_a_number"),
        format!("line 5 {other} negative_result"),
    ];

    let (code, said, complaint) = desk.import("bad.csv", &[]);
    assert_eq!((code, numbers(&said)), (Some(1), bad.to_vec()), "{said}");
    assert_eq!(complaint, "souk: import_invalid: 3 of 4 lines are wrong; nothing was applied.\n");
    assert_eq!(desk.on_hand(&ids).await, [10, 10]);
    let (code, said, complaint) = desk.import("bad.csv", &["--mode", "partial"]);
    assert_eq!((code, complaint.as_str(), numbers(&said)), (Some(1), "", bad.to_vec()), "{said}");
    assert!(said.lines().next().is_some_and(|line| line.ends_with(": 1 of 4 lines applied, 3 failed.")), "{said}");
    assert_eq!(desk.on_hand(&ids).await, [15, 10]);
    let stale = format!("code,set,expected,reason\n{first},9,15,counted\n{other},9,11,counted\n");
    desk.file("stale.csv", &stale);
    let (code, said, _) = desk.import("stale.csv", &["--mode", "all"]);
    assert_eq!((code, numbers(&said)), (Some(1), vec![format!("line 3 {other} stock_changed")]), "{said}");

    desk.file("none.csv", "who knows\n");
    for (file, options, complaint) in [
        ("none.csv", &[][..], "souk: import_unreadable: the first line names the columns"),
        ("missing.csv", &[], "souk: missing.csv: No such file"),
        ("bad.csv", &["--url", "http://127.0.0.1:9"], "souk: no shop answers at http://127.0.0.1:9;"),
    ] {
        let arguments = [&["import", "stock", file], options].concat();
        let at_shop = ["--url", desk.shop.base.as_str()];
        let output = desk.house.run(&[&arguments[..], if options.is_empty() { &at_shop } else { &[] }].concat());
        assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), ""), "{file}");
        assert!(err(&output).starts_with(complaint), "{}", err(&output));
    }
    let mut stranger = desk.house.souk(&["import", "stock", "bad.csv", "--url", &desk.shop.base]);
    let refused = stranger.env("SOUK_STAFF_TOKEN", "somebody else's token").output().expect("souk runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).starts_with("souk: unauthorised: "), "{}", err(&refused));
    assert_eq!(desk.on_hand(&ids).await, [15, 10]);
    desk.shop.close().await;
}

/// Who watches sees how far it is, and a pipe gets the summary alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_watches_an_import_sees_how_far_it_is() {
    let desk = Desk::open().await;
    let parts = shelf(&desk.shop, 1, 10).await;
    let code = parts.keys().next().expect("one");
    desk.file("many.csv", &format!("code,delta,reason\n{}", format!("{code},1,found\n").repeat(5_000)));
    let terminal = openpty(None, None).expect("a terminal");
    let mut command = desk.house.souk(&["import", "stock", "many.csv", "--url", &desk.shop.base]);
    let child = command.stdout(Stdio::piped()).stderr(terminal.slave).spawn().expect("souk runs");
    drop(command); // it holds an end of the terminal
    let output = child.wait_with_output().expect("souk ends");
    assert!(
        output.status.success() && out(&output).ends_with(": 5000 of 5000 lines applied, 0 failed.\n"),
        "{output:?}"
    );
    let mut seen = Vec::new();
    // the other end is closed: what is left can be read, and then that is an error
    File::from(terminal.master).read_to_end(&mut seen).ok();
    let seen = String::from_utf8(seen).expect("text");
    assert!(seen.starts_with('\r') && seen.ends_with("\r5000 of 5000 applied, 0 failed \r\n"), "{seen:?}");
    assert_eq!(desk.shop.stock(&parts[code]).await, (5_010, 0));
    desk.shop.close().await;
}

/// A polite end under load: who is inside is served, who comes later hears so, and nothing that was said is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polite_end_loses_nothing() {
    let mut house = House::new(&[]);
    house.start(None).await;
    let sku_id = house.api.sku(1_000_000).await;
    let (told, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let buyer = async || {
        while !stop.load(Ordering::Relaxed) {
            let Ok(answer) = house.api.try_checkout(&fresh("polite"), &basket(&[(&sku_id, 1)])).await else { return };
            if answer.status == 201 {
                told.lock().expect("no panic").push(answer.body["order_id"].as_str().expect("an id").to_owned());
            } else {
                assert_eq!(answer.status, 503, "{}", answer.text);
                return;
            }
        }
    };
    let story = async {
        eventually("the shop sells", async || told.lock().expect("no panic").len() > 50).await;
        house.signal(Signal::SIGTERM);
    };
    tokio::join!(story, futures::future::join_all((0..16).map(|_| buyer())));
    assert_eq!(house.ended().await.code(), Some(0), "{}", house.log());

    house.start(None).await;
    let ids = house.order_ids().await;
    let told = told.into_inner().expect("no panic");
    assert!(told.iter().all(|order_id| ids.contains(order_id)), "{} told, {} there", told.len(), ids.len());
    assert_eq!(house.api.stock(&sku_id).await, (1_000_000, i64::try_from(ids.len()).expect("small")));
    house.audit();
}

/// Whoever is told twice does not wait for anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_shop_at_once() {
    let mut house = House::new(&[]);
    house.start(None).await;
    // somebody who does not come to the end of a request
    let mut slow = TcpStream::connect(house.api.base.trim_start_matches("http://")).expect("it listens");
    let head = "POST /v1/checkouts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n\
                Content-Length: 9\r\nExpect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).expect("it reads");
    let mut answer = [0; 21];
    slow.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"HTTP/1.1 100 Continue", "it waits for the rest");
    house.signal(Signal::SIGTERM);
    eventually("it is stopping", async || house.log().contains("stopping")).await;
    house.signal(Signal::SIGINT);
    // one that had waited for the request would have ended well
    assert_eq!(house.ended().await.code(), Some(130), "{}", house.log());
}

/// A new version is started beside the old one, and takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_shop_takes_over() {
    let db = TestDb::new().await;
    let url = url(&db);
    let mut old = House::new(&[("SOUK_DATABASE__URL", &url)]);
    let mut new = House::new(&[("SOUK_DATABASE__URL", &url)]);
    old.start(None).await;
    let sku_id = old.api.sku(100).await;
    let placed = old.api.place(basket(&[(&sku_id, 1)])).await;

    new.start(None).await;
    // the old one finds out with its next write at the latest, and stops: not as if all were well
    old.api
        .try_checkout("late", &basket(&[(&sku_id, 1)]))
        .await
        .map(|answer| assert_eq!(answer.status, 503, "{}", answer.text))
        .ok();
    assert_eq!(old.ended().await.code(), Some(1), "{}", old.log());
    assert!(old.log().contains("a newer engine has taken over"), "{}", old.log());

    assert_eq!(new.api.order(&placed).await["status"], "awaiting_payment");
    assert_eq!(new.api.checkout("late", &basket(&[(&sku_id, 1)])).await.status, 201);
    assert_eq!(new.api.stock(&sku_id).await, (100, 2));
    new.api.clean().await;
}

/// The same in one place: Postgres and the sandbox are the successor's, and outlive their first owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_in_the_same_house_keeps_postgres_and_the_sandbox() {
    let mut old = House::new(&[]);
    old.start(None).await;
    let sku_id = old.api.sku(100).await;
    old.api.place(basket(&[(&sku_id, 1)])).await;
    let postmaster = old.postmaster();

    let (place, sandbox) = (old.dir().join("souk"), old.bank.base.trim_start_matches("http://").to_owned());
    let shared = [("SOUK_DATABASE__DATA_DIR", place.to_str().expect("UTF-8")), ("SOUK_SANDBOX__LISTEN", &sandbox)];
    let mut new = House::new(&shared);
    new.bank = Bank::new(old.bank.base.clone());
    new.start(None).await;
    assert_eq!(old.ended().await.code(), Some(1), "{}", old.log());

    assert_eq!(old.postmaster(), postmaster, "Postgres was not stopped");
    let placed = new.api.place(paid_basket(&[(&sku_id, 1)])).await;
    new.bank.approve(&placed).await;
    new.api.becomes(&placed, "confirmed", "paid").await; // the sandbox serves, and knows where the shop is now
    assert_eq!(new.api.stock(&sku_id).await, (100, 2));
    // and the lock is its own: it ends what it has taken over
    new.signal(Signal::SIGTERM);
    assert_eq!(new.ended().await.code(), Some(0), "{}", new.log());
    assert_eq!(old.postmaster(), None, "Postgres was stopped with its last owner");
}

/// Roots that cannot be believed end the start: mail that goes nowhere would be noticed much later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_that_cannot_be_read_are_named() {
    let db = TestDb::new().await;
    let house = House::new(&[("SOUK_DATABASE__URL", &url(&db)), ("SOUK_MAIL__URL", "smtp://localhost?tls=required")]);
    let no_certificate = "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n";
    for (name, content, problem) in [
        ("missing.pem", None, "No such file"),
        ("empty.pem", Some("no PEM at all\n"), "holds no certificate"),
        ("torn.pem", Some("-----BEGIN CERTIFICATE-----\nbm9"), "torn.pem: "),
        ("none.pem", Some(no_certificate), "TLS cannot be set up"),
    ] {
        if let Some(content) = content {
            std::fs::write(house.dir().join(name), content).expect("a file");
        }
        let answer = house.souk(&["serve"]).env("SOUK_MAIL__ROOTS", name).output().expect("souk runs");
        let said = err(&answer);
        assert_eq!(answer.status.code(), Some(1), "{said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.starts_with("souk: ") && last.contains("mail.roots") && last.contains(problem), "{name}: {said}");
    }
}

/// Whoever is not allowed to is told so before anything happens.
#[test]
fn an_unusable_place_is_refused_with_advice() {
    let house = House::new(&[]);
    let mut command = house.souk(&["serve"]);
    command.env("SOUK_DATABASE__DATA_DIR", "/proc/souk").process_group(0);
    let answer = command.output().expect("souk runs");
    assert_eq!(answer.status.code(), Some(1));
    assert!(err(&answer).contains("/proc"), "{}", err(&answer));
}
