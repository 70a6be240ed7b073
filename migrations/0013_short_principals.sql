-- A guest's name among the keys is half the hash of an address, in letters instead of hex: it stands in every key's row and
-- once more in the index, and was a seventh of what a checkout writes.
update idempotency
set principal = 'guest:' || translate(rtrim(encode(decode(substr(principal, 7, 32), 'hex'), 'base64'), '='), '+/', '-_')
where principal ~ '^guest:[0-9a-f]{64}$';
