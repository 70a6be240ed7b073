-- How an order is sent, and what is known of a SKU's size.

-- the method that the buyer chose, as it was quoted: who is asked for the label, and for which service. Null: none was chosen
alter table customer_order add column shipping jsonb;

-- a unit as it is packed; null: not known, and the settings say what is assumed
alter table sku
    add column grams integer,
    add column length_mm integer,
    add column width_mm integer,
    add column height_mm integer,
    add constraint sku_grams_positive check (grams > 0),
    -- a size is known whole or not at all
    add constraint sku_size_whole check (
        num_nulls(length_mm, width_mm, height_mm) in (0, 3) and length_mm > 0 and width_mm > 0 and height_mm > 0
    );
