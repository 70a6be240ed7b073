-- What staff ask of a placed order, and calls that are about a parcel instead of money.

-- why nothing of the order may be shipped for now; null: it may
alter table customer_order add column hold_reason text;

-- a call is about an attempt to pay, a refund of one, or a shipment
alter table task alter column payment_id drop not null;
alter table task add column shipment_id bigint;
alter table task add constraint task_about_one check ((payment_id is null) <> (shipment_id is null));
