//! A database with data in it survives every later migration: a shop that sold with the first tables goes on selling.

use std::{fs, sync::Arc};

use souk_actors::domain::{Command, OrderId, OrderStatus, PaymentSummary, RefundWish, SkuId};
use sqlx::{Connection, migrate::Migrator};

use crate::support::{
    FakeProvider, Mood, Op, Setup, TestDb, TestEngine, eventually,
    shop::{TestShop, basket},
    usd,
};

/// The newest migration of the first release.
const FIRST_RELEASE: i64 = 3;
/// The last before addresses and services were plain text.
const TAKEN_APART: i64 = 15;

/// What that release left: one order paid, one whose payment is still to be announced, one called off with its refund
/// under way; each of two units at five dollars.
const LEFT: &str = "
    insert into stock (sku_id, on_hand, reserved, version) values (7, 10, 4, 5);
    insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, order_id, who, at) values
        (1, 7, 10, 0, 'open', null, 'staff', now()), (2, 7, 0, 2, 'reserve', 101, 'buyer', now()),
        (3, 7, 0, 0, 'commit', 101, 'provider', now()), (4, 7, 0, 2, 'reserve', 102, 'buyer', now()),
        (5, 7, 0, 2, 'reserve', 103, 'buyer', now()), (6, 7, 0, -2, 'release', 103, 'buyer', now());
    insert into customer_order (id, version, status, email, address, currency, total_minor, deadline, created_at)
        select id, version, status::order_status, 'ann@example.com',
            '{\"name\":\"Ann\",\"line1\":\"1 Main St\",\"city\":\"Springfield\",\"region\":\"IL\",\"postal_code\":\"62701\",
              \"country\":\"US\"}', 'USD', 1000, now() + interval '15 minutes', now()
        from (values (101, 2, 'confirmed'), (102, 1, 'awaiting_payment'), (103, 2, 'cancelled')) as o(id, version, status);
    insert into reservation (order_id, part, line, sku_id, quantity, unit_price_minor, state) values
        (101, 0, 0, 7, 2, 500, 'committed'), (102, 0, 0, 7, 2, 500, 'held'), (103, 0, 0, 7, 2, 500, 'released');
    insert into order_event (order_id, seq, kind, data, who, at) values
        (101, 2, 'confirmed', '{}', 'provider', now()), (103, 2, 'cancelled', '{}', 'buyer', now());
    insert into idempotency (principal, key, route, fingerprint, ref_id, created_at)
        select 'guest', id::text, 'checkout', '', id, now() from customer_order;
    insert into payment (id, order_id, provider, provider_order_id, approve_url, state, created_at) values
        (201, 101, 'fake', 'PO-1', 'https://fake/PO-1', 'captured', now()), (202, 102, 'fake', null, null, 'created', now()),
        (203, 103, 'fake', 'PO-3', 'https://fake/PO-3', 'captured', now());
    insert into payment_fact (payment_id, kind, object_id, status, at, amount_minor, currency, seen_at) values
        (201, 'capture', 'C-1', 'completed', now(), 1000, 'USD', now()),
        (203, 'capture', 'C-3', 'completed', now(), 1000, 'USD', now());
    insert into refund (id, order_id, payment_id, capture_id, amount_minor, currency, reason, state, created_at) values
        (303, 103, 203, 'C-3', 1000, 'USD', 'cancelled', 'requested', now());
    insert into task (id, order_id, payment_id, refund_id, kind, state, due_at, created_at) values
        (402, 102, 202, null, 'create_payment', 'open', now(), now()), (403, 103, 203, 303, 'refund', 'open', now(), now());
";

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_sold_with_the_first_tables_goes_on() {
    let db = Arc::new(TestDb::empty().await);
    let mut conn = db.conn().await;
    migrate_to(&mut conn, FIRST_RELEASE).await;
    sqlx::raw_sql(LEFT).execute(&mut conn).await.expect("as the first release wrote it");
    migrate_to(&mut conn, TAKEN_APART).await;
    let sent = "update customer_order set shipping = '{\"provider\":\"manual\",\"carrier\":\"\",\"token\":\"post\",\"name\":\"By post\"}'
        where id = 101";
    sqlx::query(sent).execute(&mut conn).await.expect("as a later release wrote it");
    souk::database::MIGRATIONS.run(&mut conn).await.expect("the later migrations go through");
    conn.close().await.ok();

    // money of another life: this provider has no books about it, and answers nothing
    let setup = Setup::default();
    let provider = Arc::new(FakeProvider::new("fake", setup.clock.clone()));
    provider.always(Op::Refund, Mood::Broken);
    let setup = Setup { provider: Some(provider), ..setup };
    let shop = TestEngine::on(Arc::clone(&db), db.connect.clone(), setup).await;
    let [paid, open, cancelled] = [101, 102, 103].map(OrderId);
    assert_eq!(shop.view(paid).await.payment_status, PaymentSummary::Paid);
    assert_eq!(shop.view(paid).await.shipping_address.city, "Springfield");
    assert_eq!(shop.view(paid).await.shipping.map(|chosen| chosen.service.name).as_deref(), Some("By post"));
    assert_eq!(shop.view(cancelled).await.payment_status, PaymentSummary::Refunding);
    eventually("its payment is announced", async || shop.view(open).await.payments[0].approve_url.is_some()).await;

    // what is new works for what is old
    let wish = Command::Refund { what: RefundWish::Amount(usd(250)), reason: "a dent".into() };
    shop.command(paid, wish).await.expect("some of it goes back");
    assert_eq!(shop.view(paid).await.status, OrderStatus::Confirmed);
    let later = shop.order(SkuId(7), 1).await;
    assert_eq!(shop.view(later).await.status, OrderStatus::AwaitingPayment);
    assert_eq!(shop.stock(SkuId(7)).await, (10, 5));
    shop.end().await;
}

/// Guests are called otherwise among the keys since then: a key that was used before still finds its order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guests_key_from_before_its_name_was_short_finds_its_order() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    let order = shop.checkout("kept", &basket(&[(&sku_id, 1)])).await.ok();
    let mut conn = shop.db.conn().await;
    let old =
        "update idempotency set principal = 'guest:' || encode(sha256('ann@example.com'), 'hex') where key = 'kept'";
    assert_eq!(sqlx::query(old).execute(&mut conn).await.expect("renamed").rows_affected(), 1);
    let migration = include_str!("../../migrations/0013_short_principals.sql");
    sqlx::raw_sql(migration).execute(&mut conn).await.expect("it goes through");

    let again = shop.checkout("kept", &basket(&[(&sku_id, 1)])).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.ok()["order_id"], order["order_id"]);
    conn.close().await.ok();
    shop.close().await;
}

/// The migrations up to a number, as a release of that time brought them.
async fn migrate_to(conn: &mut sqlx::PgConnection, newest: i64) {
    let dir = tempfile::tempdir().expect("a directory");
    for migration in souk::database::MIGRATIONS.iter().filter(|migration| migration.version <= newest) {
        let name = format!("{:04}_{}.sql", migration.version, migration.description.replace(' ', "_"));
        fs::write(dir.path().join(name), migration.sql.as_str()).expect("written");
    }
    Migrator::new(dir.path()).await.expect("migrations").run(conn).await.expect("they go through");
}
