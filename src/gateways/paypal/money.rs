//! PayPal's money: the currencies that it knows, how many decimals it takes in each, and amounts on the wire.

use serde::{Deserialize, Serialize};
use souk_actors::{
    domain::{Currency, Money},
    ports::ProviderError,
};

/// What PayPal charges in whole units only, also where ISO 4217 knows hundredths (HUF, TWD).
/// Source: PayPal's currency codes, developer.paypal.com/api/rest/reference/currency-codes.
const WHOLE: [&str; 3] = ["HUF", "JPY", "TWD"];
/// What it charges in hundredths. BRL, CNY, INR and MYR are for accounts of those countries.
const HUNDREDTHS: [&str; 21] = [
    "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "ILS", "INR", "MXN", "MYR", "NOK", "NZD",
    "PHP", "PLN", "SEK", "SGD", "USD",
];

/// How many decimals PayPal takes in a currency; none for one that it does not know.
pub(super) fn decimals(currency: Currency) -> Option<u32> {
    if WHOLE.contains(&currency.code()) {
        return Some(0);
    }
    HUNDREDTHS.contains(&currency.code()).then_some(2)
}

/// An amount on the wire. The value is a string, also when it is whole.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Amount {
    currency_code: String,
    value: String,
}

impl Amount {
    /// `money` as PayPal wants it told.
    ///
    /// # Errors
    /// [`ProviderError::Rejected`] where PayPal's decimals do not hold it, or it does not know the currency: an amount is
    /// told exactly or not at all.
    pub(super) fn exact(money: Money) -> Result<Self, ProviderError> {
        let rejected = |why: &str| ProviderError::Rejected(format!("{} {why}", money.currency));
        let most = decimals(money.currency).ok_or_else(|| rejected("is no currency of PayPal"))?;
        let value = fitted(money.amount(), most).ok_or_else(|| rejected("is charged with fewer decimals"))?;
        Ok(Self { currency_code: money.currency.code().to_owned(), value })
    }

    /// None for a currency that Souk does not sell in, a negative amount, or more decimals than can be charged.
    pub(super) fn money(&self) -> Option<Money> {
        Money::parse(&self.value, self.currency_code.parse().ok()?).ok()
    }
}

/// A decimal number with `most` decimals at the most; none where that would change it.
fn fitted(value: String, most: u32) -> Option<String> {
    let Some((whole, decimals)) = value.split_once('.') else { return Some(value) };
    let kept = usize::try_from(most).ok()?;
    let (kept, cut) = decimals.split_at_checked(kept).unwrap_or((decimals, ""));
    if cut.bytes().any(|digit| digit != b'0') {
        return None;
    }
    Some(if kept.is_empty() { whole.to_owned() } else { format!("{whole}.{kept}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_that_souk_cannot_read_is_no_amount() {
        let money =
            |amount: &str, currency: &str| Money::parse(amount, currency.parse().expect("known")).expect("an amount");
        for (currency, value, amount) in [
            ("USD", "12.5", Some(money("12.50", "USD"))),
            ("USD", "12.500", Some(money("12.50", "USD"))),
            ("USD", "12.505", None),
            ("USD", "-1.00", None),
            ("JPY", "100", Some(money("100", "JPY"))),
            ("JPY", "100.00", Some(money("100", "JPY"))),
            ("JPY", "100.5", None),
            ("TWD", "100.5", None),
            ("HUF", "0.01", None),
            ("XAU", "1.00", None),
            ("usd", "1.00", None),
        ] {
            let read = Amount { currency_code: currency.to_owned(), value: value.to_owned() };
            assert_eq!(read.money(), amount, "{value} {currency}");
        }
    }

    /// Souk's own decimals are those of the strictest provider, so no total exists that PayPal could not be told.
    #[test]
    fn whatever_souk_sells_in_paypal_charges_exactly() {
        for code in HUNDREDTHS.iter().chain(&WHOLE) {
            let currency: Currency = code.parse().expect("Souk sells in it");
            assert_eq!(decimals(currency), Some(currency.exponent()), "{code}");
            let money = Money::new(123_450, currency);
            let told = Amount::exact(money).expect("it can be told");
            assert_eq!((told.value.as_str(), told.currency_code.as_str()), (money.amount().as_str(), *code));
            assert_eq!(told.money(), Some(money), "{code}");
        }
        let named = souk_actors::domain::MoneyError::Currency.to_string();
        let sold_in = named.split(' ').filter(|word| word.len() == 3 && word.bytes().all(|b| b.is_ascii_uppercase()));
        assert_eq!(sold_in.count(), HUNDREDTHS.len() + WHOLE.len(), "Souk sells in nothing else");
    }

    #[test]
    fn nothing_is_rounded_on_the_way() {
        for (value, most, told) in [
            ("12.50", 2, Some("12.50")),
            ("12.50", 0, None),
            ("12.00", 0, Some("12")),
            ("12.500", 2, Some("12.50")),
            ("12.505", 2, None),
            ("1200", 0, Some("1200")),
            ("1200", 2, Some("1200")),
        ] {
            assert_eq!(fitted(value.to_owned(), most).as_deref(), told, "{value} with {most}");
        }
    }
}
