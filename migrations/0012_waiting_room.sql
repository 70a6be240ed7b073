-- Live stock: of what is reserved, the units of orders that are not paid. They may come back, and buyers are told so.
-- An engine of the former version would not move this counter: it is shut out here, as a newer engine would, and whatever
-- it was committing is waited for
update journal set epoch = epoch + 1, owner = null;
alter table stock add column unpaid bigint not null default 0;
update stock s set unpaid = r.units
from (select sku_id, sum(quantity) as units from reservation where state = 'held' group by sku_id) r
where r.sku_id = s.sku_id;
alter table stock add constraint stock_unpaid_within_reserved check (unpaid between 0 and reserved);
