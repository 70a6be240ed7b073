//! The line to a mail server that is not on this machine: encrypted before anything is said, and with a name and a password.
//! Somebody listens in on the wire, and what they hear is the proof.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use souk::sandbox::{MailSettings, Sandbox};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::{
    mail::{are_mailed, mails},
    sandbox_mail::settings,
    support::{
        eventually, eventually_or, open_sandbox,
        shop::{Bank, TestShop},
    },
};

const USER: &str = "apikey";
const PASSWORD: &str = "hunter2";

/// A mail server that wants a name and a password, with a certificate of a CA that no system knows; and the wire to it.
struct Relay {
    dir: TempDir,
    sandbox: Sandbox,
    letters: Bank,
    wire: Wire,
}

impl Relay {
    async fn open(listener: Listener) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mail = MailSettings { user: USER.into(), password: PASSWORD.into(), ..MailSettings::default() };
        let sandbox = open_sandbox(settings(dir.path(), mail)).await;
        let letters = Bank::new(format!("http://{}", sandbox.addr));
        let wire = Wire::to(sandbox.smtp_addr, listener).await;
        Self { dir, sandbox, letters, wire }
    }

    /// A shop that mails over it, with further settings.
    async fn shop(&self, settings: &[(&str, &str)]) -> TestShop {
        let url = format!("smtp://localhost:{}?tls=required", self.wire.addr.port());
        let own = [("SOUK_MAIL__URL", url.as_str()), ("SOUK_MAIL__USER", USER), ("SOUK_MAIL__PASSWORD", PASSWORD)];
        TestShop::with(&[&own[..], settings].concat()).await
    }

    /// Where the root is that its certificate leads to.
    fn root(&self) -> String {
        self.dir.path().join("root.pem").display().to_string()
    }
}

/// What somebody on the wire does beside listening.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listener {
    Listens,
    /// Hides that the server could encrypt.
    Strips,
}

struct Wire {
    addr: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    async fn to(server: SocketAddr, listener: Listener) -> Self {
        let end = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = end.local_addr().expect("bound");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((shop, _)) = end.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                let ((from_shop, to_shop), (from_server, to_server)) = (shop.into_split(), server.into_split());
                tokio::spawn(carry(from_shop, to_server, Arc::clone(&ear), Listener::Listens));
                tokio::spawn(carry(from_server, to_shop, Arc::clone(&ear), listener));
            }
        });
        Self { addr, heard }
    }

    /// All that was to be heard, both ways.
    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().expect("no panic under this lock")).into_owned()
    }

    /// It was agreed to encrypt at the most; neither who logs in nor who writes to whom was to be heard.
    #[track_caller]
    fn gave_nothing_away(&self) {
        let heard = self.heard();
        let plain = BASE64_STANDARD.encode(format!("\0{USER}\0{PASSWORD}"));
        for secret in ["AUTH PLAIN ", "AUTH LOGIN", "MAIL FROM", "RCPT TO", "ann@", "Lamp", PASSWORD, &plain] {
            // what the server can do is said in the open
            let said = heard.replace("250 AUTH PLAIN LOGIN", "");
            assert!(!said.contains(secret), "{secret} was to be heard: {said}");
        }
    }
}

/// One way of one connection, until it ends.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, ear: Arc<Mutex<Vec<u8>>>, listener: Listener) {
    const WORD: &[u8] = b"STARTTLS";
    let mut buffer = [0; 4_096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let said = &mut buffer[..read];
        ear.lock().expect("no panic under this lock").extend_from_slice(said);
        let word = said.windows(WORD.len()).position(|part| part == WORD);
        if let Some(at) = word.filter(|_| listener == Listener::Strips) {
            said[at] = b'X';
        }
        if to.write_all(said).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_goes_encrypted_and_with_a_password_to_a_server_whose_root_is_named() {
    let relay = Relay::open(Listener::Listens).await;
    let shop = relay.shop(&[("SOUK_MAIL__ROOTS", &relay.root())]).await;
    let sku_id = shop.sku(5).await;
    // the second goes over the line that the first has opened, or one of its own
    for _ in 0..2 {
        let placed = shop.sold(&sku_id).await;
        let mail = are_mailed(&relay.letters, &placed, 1).await.remove(0);
        assert_eq!((&mail["tls"], &mail["user"]), (&true.into(), &USER.into()), "{mail}");
        assert_eq!(mail["to"], serde_json::json!(["ann@example.com"]));
    }
    assert!(relay.wire.heard().contains("STARTTLS"));
    relay.wire.gave_nothing_away();
    eventually("all is sent", async || shop.count("select count(*) from outbox where state <> 'sent'").await == 0)
        .await;
    shop.close().await;
    relay.sandbox.stop().await;
}

/// Nobody who pretends to be the mail server is told anything, nor is a server that cannot encrypt, or does not let us in: the
/// letter waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_to_a_server_that_is_not_believed_stays_here() {
    for (listener, is_believed, password, why) in [
        (Listener::Listens, false, PASSWORD, "certificate"),
        (Listener::Strips, true, PASSWORD, "STARTTLS is not supported"),
        (Listener::Listens, true, "hunter3", "the mail server answered 535"),
    ] {
        let relay = Relay::open(listener).await;
        let root = if is_believed { relay.root() } else { String::new() };
        let shop = relay.shop(&[("SOUK_MAIL__ROOTS", &root), ("SOUK_MAIL__PASSWORD", password)]).await;
        let placed = shop.sold(&shop.sku(5).await).await;
        let waits = "select count(*) from outbox where state = 'open' and attempts > 0 and sent_at is null";
        eventually_or("it was tried", async || shop.count(waits).await == 1, async || relay.wire.heard()).await;
        assert!(last_error(&shop).await.contains(why), "{}", last_error(&shop).await);
        // again, when it is due again
        shop.later(61).await;
        eventually("it was tried again", async || {
            shop.count("select count(*) from outbox where state = 'open' and attempts > 1").await == 1
        })
        .await;
        assert_eq!(mails(&relay.letters, &placed).await.len(), 0, "{why}");
        relay.wire.gave_nothing_away();
        assert_eq!(shop.status(&placed).await, ("confirmed".into(), "paid".into()), "the sale does not notice");
        shop.close().await;
        relay.sandbox.stop().await;
    }
}

async fn last_error(shop: &TestShop) -> String {
    let mut conn = shop.db.conn().await;
    let question = "select coalesce(last_error, '') from outbox where state = 'open'";
    sqlx::query_scalar(question).fetch_one(&mut conn).await.expect("a question")
}
