//! Two ways to say the same. *Strict* is what Shippo documents and its own clients read; *observed* is what its API has
//! been seen to say: nulls where there is nothing, times without a zone, words that are on no list, fields left out.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Profile {
    Strict,
    Observed,
}

/// What kind of object it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Address,
    Parcel,
    Customs,
    Shipment,
    Rate,
    Transaction,
    Refund,
    Track,
    Hook,
}

/// An object as the profile has it; all of them are written strictly.
pub(super) fn dressed(profile: Profile, shape: Shape, mut object: Value) -> Value {
    if profile == Profile::Observed {
        observed(shape, &mut object);
        without_zones(&mut object);
    }
    object
}

/// The same for a page of a list.
pub(super) fn dressed_list(profile: Profile, shape: Shape, mut list: Value) -> Value {
    if profile == Profile::Observed {
        for object in list["results"].as_array_mut().into_iter().flatten() {
            observed(shape, object);
        }
        without_zones(&mut list);
        nulls(&mut list, &["next", "previous"]);
    }
    list
}

fn observed(shape: Shape, object: &mut Value) {
    match shape {
        Shape::Address => {
            nulls(object, &["street3", "street_no", "company", "is_residential", "latitude", "longitude"]);
            object["validation_results"] = json!({});
        }
        Shape::Parcel => nulls(object, &["template", "line_items", "extra"]),
        Shape::Customs => nulls(object, &["aes_itn", "incoterm", "invoice", "disclaimer", "duties_payor"]),
        Shape::Shipment => {
            nulls(object, &["customs_declaration", "alternate_address_to", "order", "customs_origin"]);
            for (part, shape) in [("address_from", Shape::Address), ("address_to", Shape::Address)] {
                observed(shape, &mut object[part]);
            }
            for rate in object["rates"].as_array_mut().into_iter().flatten() {
                observed(Shape::Rate, rate);
            }
        }
        Shape::Rate => {
            nulls(object, &["arrives_by", "included_insurance_price", "zone"]);
            object["zone"] = Value::Null;
            object["servicelevel"]["extended_token"] = Value::Null;
            object["servicelevel"]["parent_servicelevel"] = Value::Null;
            if let Some(attributes) = object["attributes"].as_array_mut() {
                attributes.push(json!("GREENEST"));
            }
            leave_out(object, &["duration_terms", "test"]);
        }
        Shape::Transaction => {
            nulls(object, &["eta", "parcel", "qr_code_url", "commercial_invoice_url", "order"]);
            let status = object["tracking_status"].take();
            object["tracking_status"] = json!({
                "object_created": object["object_created"], "object_updated": null, "object_id": "",
                "status": status, "status_details": "", "status_date": null, "substatus": null, "location": null,
            });
            object["object_state"] = json!("INCOMPLETE");
            leave_out(object, &["created_by", "label_file_type", "test"]);
        }
        Shape::Refund => leave_out(object, &["test"]),
        Shape::Track => {
            nulls(object, &["eta", "original_eta", "address_from", "address_to", "servicelevel", "transaction"]);
            nulls(object, &["tracking_status"]);
            scan(&mut object["tracking_status"]);
            for one in object["tracking_history"].as_array_mut().into_iter().flatten() {
                scan(one);
            }
            leave_out(object, &["test"]);
        }
        Shape::Hook => leave_out(object, &["object_owner"]),
    }
}

fn scan(scan: &mut Value) {
    if scan.is_object() {
        nulls(scan, &["substatus"]);
        scan["object_updated"] = Value::Null;
        scan["location"] = Value::Null;
    }
}

/// Null for each that is not there.
fn nulls(object: &mut Value, names: &[&str]) {
    let Some(object) = object.as_object_mut() else { return };
    for name in names {
        object.entry(*name).or_insert(Value::Null);
    }
}

fn leave_out(object: &mut Value, names: &[&str]) {
    let Some(object) = object.as_object_mut() else { return };
    object.retain(|name, _| !names.contains(&name.as_str()));
}

/// Times as `2018-07-30T18:49:42.586`.
fn without_zones(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, value) in object.iter_mut() {
                let is_time = ["object_created", "object_updated", "status_date"].contains(&name.as_str());
                match value {
                    Value::String(time) if is_time => *time = time.trim_end_matches('Z').to_owned(),
                    other => without_zones(other),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(without_zones),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
