//! The labels' files, behind links that are signed and end to work: a client that wants a label later has to keep it.

use axum::{
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::{books::Transaction, courier::hmac_hex, office::Desk};

/// Where the file is, if there is one.
pub(super) fn url(base: &str, key: &str, transaction: &Transaction) -> Option<String> {
    let expires = transaction.label_expires?.timestamp();
    let name = format!("{}.{}", transaction.id, extension(&transaction.label_file_type));
    let signature = hmac_hex(key, &format!("{name}/{expires}"));
    Some(format!("{base}/shippo/labels/{name}?Expires={expires}&Signature={signature}"))
}

fn extension(file_type: &str) -> &'static str {
    match file_type {
        png if png.starts_with("PNG") => "png",
        "ZPLII" => "zpl",
        _ => "pdf",
    }
}

/// What makes a link work; without any of it there is nothing to see.
#[derive(Deserialize)]
pub(super) struct Link {
    #[serde(rename = "Expires", default)]
    expires: i64,
    #[serde(rename = "Signature", default)]
    signature: String,
}

/// `GET /labels/{transaction}.pdf?Expires=…&Signature=…`: nobody is asked for a key, the link is one.
pub(super) async fn show(State(desk): State<Desk>, Path(name): Path<String>, Query(link): Query<Link>) -> Response {
    let signature = hmac_hex(&desk.settings.key, &format!("{name}/{}", link.expires));
    if !bool::from(signature.as_bytes().ct_eq(link.signature.as_bytes())) {
        return denied("SignatureDoesNotMatch", "The request signature we calculated does not match.");
    }
    if desk.now().timestamp() >= link.expires {
        return denied("AccessDenied", "Request has expired");
    }
    let id = name.split('.').next().unwrap_or_default();
    let Some(transaction) = desk.look(|books| books.transactions.get(id).cloned()) else {
        return denied("AccessDenied", "Access Denied");
    };
    desk.count_download(id);
    let title = format!("{} {}", transaction.carrier.to_uppercase(), transaction.tracking_number);
    let (kind, file) = match extension(&transaction.label_file_type) {
        "png" => ("image/png", png()),
        "zpl" => ("application/zpl", format!("^XA^FO50,50^A0N,50,50^FD{title}^FS^XZ").into_bytes()),
        _ => ("application/pdf", pdf(&title).into_bytes()),
    };
    ([(header::CONTENT_TYPE, kind)], file).into_response()
}

/// As the file store says it, in XML.
fn denied(code: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    (StatusCode::FORBIDDEN, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
}

/// One page of 4 by 6 inches with one line on it.
fn pdf(line: &str) -> String {
    let line: String = line.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == ' ').collect();
    let text = format!("BT /F1 14 Tf 24 400 Td ({line}) Tj ET");
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 288 432] /Contents 4 0 R \
         /Resources << /Font << /F1 5 0 R >> >> >>"
            .to_owned(),
        format!("<< /Length {} >>\nstream\n{text}\nendstream", text.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    let mut pdf = "%PDF-1.4\n".to_owned();
    let mut places = String::new();
    for (number, object) in (1..).zip(&objects) {
        places.push_str(&format!("{:010} 00000 n \n", pdf.len()));
        pdf.push_str(&format!("{number} 0 obj\n{object}\nendobj\n"));
    }
    let (start, size) = (pdf.len(), objects.len() + 1);
    pdf.push_str(&format!("xref\n0 {size}\n0000000000 65535 f \n{places}"));
    pdf.push_str(&format!("trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"));
    pdf
}

/// One white pixel: header, one stored row, end.
fn png() -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut png, b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0]);
    // zlib: a stored block of the two bytes 0 (no filter) and 255 (white), and their Adler-32
    chunk(&mut png, b"IDAT", &[0x78, 0x01, 0x01, 2, 0, 0xfd, 0xff, 0, 255, 0x01, 0x01, 0x01, 0x00]);
    chunk(&mut png, b"IEND", &[]);
    png
}

fn chunk(png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("a few bytes");
    png.extend(length.to_be_bytes());
    let start = png.len();
    png.extend(kind);
    png.extend(data);
    let crc = crc32fast::hash(&png[start..]);
    png.extend(crc.to_be_bytes());
}
