-- Of what a sale has sold of a SKU, the units of orders that are not paid. They may come back to it, and those who wait are
-- told so: what others leave unpaid at the usual price is none of the sale's.
-- An engine of the former version would not move this counter: it is shut out here, as a newer engine would, and whatever
-- it was committing is waited for
update journal set epoch = epoch + 1, owner = null;
alter table sale_sku add column unpaid bigint not null default 0;
update sale_sku q set unpaid = r.units
from (
    select sale_id, sku_id, sum(quantity) as units from reservation
    where sale_id is not null and state = 'held' group by sale_id, sku_id
) r
where r.sale_id = q.sale_id and r.sku_id = q.sku_id;
alter table sale_sku add constraint sale_sku_unpaid_within_sold check (unpaid between 0 and sold);
