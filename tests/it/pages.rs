//! The page of an order: what its buyer sees in a browser.

use serde_json::json;

use crate::support::shop::{TestShop, basket, paid_basket};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_has_a_page_and_nobodys_words_become_markup() {
    let shop = TestShop::open().await;
    let product = json!({
        "name": "Lamp <script>x</script>", "currency": "USD", "skus": [{ "code": "LAMP", "price": "5.00", "on_hand": 9 }]
    });
    let made = shop.order_staff("/v1/admin/products", product).await.ok();
    let sku_id = made["skus"][0]["sku_id"].as_str().expect("an id");

    let placed = shop.place(paid_basket(&[(sku_id, 2)])).await;
    let page = shop.get(&format!("/orders/{}?token={}", placed.order_id, placed.token)).await;
    assert_eq!((page.status, page.header("referrer-policy")), (200, "no-referrer"));
    assert!(page.text.contains("2 × Lamp &#60;script&#62;") && !page.text.contains("<script>"), "{}", page.text);
    assert!(page.text.contains("Pay now") && page.text.contains("10.00 USD"), "{}", page.text);

    shop.bank.approve(&placed).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    let page = shop.get(&format!("/orders/{}?token={}", placed.order_id, placed.token)).await;
    assert!(page.text.contains("is confirmed") && !page.text.contains("Pay now"), "{}", page.text);

    let other = shop.place(basket(&[(sku_id, 1)])).await;
    shop.get(&format!("/orders/{}?token={}", other.order_id, placed.token)).await.is_problem(404, "not_found");
    shop.close().await;
}
