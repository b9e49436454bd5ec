-- How the site's records are prepared for the network, as fitted when the study was accepted: JSON that
-- only the training code reads. It stays here. Empty where there is nothing to prepare.
ALTER TABLE study ADD COLUMN preparation TEXT;
