//! Money as PayPal writes it, `{"currency_code":"USD","value":"12.50"}`, kept in minor units.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error, ser::SerializeStruct};

/// PayPal's currencies and their decimals. HUF, JPY and TWD have none here, whatever ISO 4217 says.
const CURRENCIES: [(&str, u32); 24] = [
    ("AUD", 2),
    ("BRL", 2),
    ("CAD", 2),
    ("CHF", 2),
    ("CNY", 2),
    ("CZK", 2),
    ("DKK", 2),
    ("EUR", 2),
    ("GBP", 2),
    ("HKD", 2),
    ("HUF", 0),
    ("ILS", 2),
    ("INR", 2),
    ("JPY", 0),
    ("MXN", 2),
    ("MYR", 2),
    ("NOK", 2),
    ("NZD", 2),
    ("PHP", 2),
    ("PLN", 2),
    ("SEK", 2),
    ("SGD", 2),
    ("TWD", 0),
    ("USD", 2),
];

/// A sum per currency, in minor units.
pub(super) type Purse = BTreeMap<&'static str, i64>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Currency {
    pub(super) code: &'static str,
    exponent: u32,
}

impl Currency {
    fn read(code: &str) -> Option<Self> {
        let known = CURRENCIES.iter().find(|(known, _)| *known == code);
        known.map(|(code, exponent)| Self { code, exponent: *exponent })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Money {
    pub(super) minor: i64,
    pub(super) currency: Currency,
}

impl Money {
    /// Reads what a caller wrote; an error is PayPal's name of the issue.
    pub(super) fn read(currency_code: &str, value: &str) -> Result<Self, &'static str> {
        let currency = Currency::read(currency_code).ok_or("INVALID_CURRENCY_CODE")?;
        let (negative, digits) = value.strip_prefix('-').map_or((false, value), |digits| (true, digits));
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        if !is_number(digits, whole, decimals) {
            return Err("INVALID_PARAMETER_SYNTAX");
        }
        if !decimals.is_empty() && currency.exponent == 0 {
            return Err("DECIMALS_NOT_SUPPORTED");
        }
        if decimals.len() > currency.exponent as usize {
            return Err("DECIMAL_PRECISION");
        }
        if whole.len() > 15 {
            return Err("MAX_VALUE_EXCEEDED");
        }
        let padded = format!("0{whole}{decimals:0<width$}", width = currency.exponent as usize);
        let minor: i64 = padded.parse().map_err(|_| "MAX_VALUE_EXCEEDED")?;
        Ok(Self { minor: if negative { -minor } else { minor }, currency })
    }

    /// As much of another amount of the same currency.
    pub(super) fn of(self, minor: i64) -> Self {
        Self { minor, ..self }
    }

    /// The number alone: `12.50`, `1200` for yen.
    pub(super) fn value(self) -> String {
        let sign = if self.minor < 0 { "-" } else { "" };
        let units = self.minor.unsigned_abs();
        if self.currency.exponent == 0 {
            return format!("{sign}{units}");
        }
        format!("{sign}{}.{:02}", units / 100, units % 100)
    }

    /// For people: `12.50 USD`.
    pub(super) fn text(self) -> String {
        format!("{} {}", self.value(), self.currency.code)
    }

    /// PayPal's share of a sale: 3.49 % and 49 hundredths of a unit, never more than the sale.
    pub(super) fn fee(self) -> Self {
        let fixed = if self.currency.exponent == 0 { 40 } else { 49 };
        let share = (i128::from(self.minor) * 349 + 5_000) / 10_000;
        let fee = i64::try_from(share).unwrap_or(self.minor).saturating_add(fixed);
        self.of(fee.min(self.minor))
    }
}

/// PayPal's own pattern: `^((-?[0-9]+)|(-?([0-9]+)?[.][0-9]+))$`, 32 characters at most.
fn is_number(digits: &str, whole: &str, decimals: &str) -> bool {
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let has_end = if digits.contains('.') { !decimals.is_empty() } else { !whole.is_empty() };
    digits.len() <= 31 && has_end && all_digits(whole) && all_digits(decimals)
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Money", 2)?;
        object.serialize_field("currency_code", self.currency.code)?;
        object.serialize_field("value", &self.value())?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            currency_code: String,
            value: String,
        }
        let wire = Wire::deserialize(deserializer)?;
        Self::read(&wire.currency_code, &wire.value).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_paypal_reads_them() {
        let minor = |code, value| Money::read(code, value).map(|money| money.minor);
        assert_eq!(minor("USD", "12.5"), Ok(1250));
        assert_eq!(minor("USD", ".05"), Ok(5));
        assert_eq!(minor("USD", "-3"), Ok(-300));
        assert_eq!(minor("JPY", "1200"), Ok(1200));
        assert_eq!(minor("JPY", "1200.00"), Err("DECIMALS_NOT_SUPPORTED"));
        assert_eq!(minor("USD", "1.005"), Err("DECIMAL_PRECISION"));
        assert_eq!(minor("XYZ", "1"), Err("INVALID_CURRENCY_CODE"));
        assert_eq!(minor("USD", "1000000000000000"), Err("MAX_VALUE_EXCEEDED"));
        for bad in ["", ".", "1.", "-", "1e3", "1,50", " 1", "--1", "1.2.3"] {
            assert_eq!(minor("USD", bad), Err("INVALID_PARAMETER_SYNTAX"), "{bad:?}");
        }
    }

    #[test]
    fn the_fee_never_exceeds_the_sale() {
        let usd = |value| Money::read("USD", value).expect("an amount");
        assert_eq!(usd("100.00").fee().value(), "3.98");
        assert_eq!(usd("0.10").fee().value(), "0.10");
    }
}
