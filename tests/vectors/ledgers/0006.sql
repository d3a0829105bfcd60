BEGIN TRANSACTION;
CREATE TABLE account (
	id VARCHAR(40) NOT NULL, 
	username VARCHAR(255) NOT NULL, 
	account VARCHAR(255) NOT NULL, 
	admin BOOLEAN NOT NULL, 
	enabled BOOLEAN NOT NULL, 
	locked BOOLEAN DEFAULT 0 NOT NULL, 
	password_hash VARCHAR(255) NOT NULL, 
	api_key VARCHAR(128), 
	secret_key VARCHAR(255), 
	firstname VARCHAR(255), 
	lastname VARCHAR(255), 
	email VARCHAR(255), 
	created DOUBLE NOT NULL, 
	CONSTRAINT pk_account PRIMARY KEY (id), 
	CONSTRAINT uq_account_api_key UNIQUE (api_key), 
	CONSTRAINT uq_account_username UNIQUE (username)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0006');
CREATE TABLE api_job (
	id VARCHAR(40) NOT NULL, 
	owner VARCHAR(40) NOT NULL, 
	command VARCHAR(255) NOT NULL, 
	status INTEGER NOT NULL, 
	result TEXT DEFAULT '{}' NOT NULL, 
	instance_type VARCHAR(64), 
	instance VARCHAR(40), 
	created DOUBLE NOT NULL, 
	completed DOUBLE, 
	CONSTRAINT pk_api_job PRIMARY KEY (id)
);
CREATE TABLE api_job_part (
	api_job VARCHAR(40) NOT NULL, 
	job VARCHAR(40) NOT NULL, 
	CONSTRAINT pk_api_job_part PRIMARY KEY (api_job, job), 
	CONSTRAINT fk_api_job_part_api_job FOREIGN KEY(api_job) REFERENCES api_job (id) ON DELETE CASCADE, 
	CONSTRAINT fk_api_job_part_job FOREIGN KEY(job) REFERENCES job (id) ON DELETE CASCADE
);
CREATE TABLE attempt (
	job VARCHAR(40) NOT NULL, 
	fence BIGINT NOT NULL, 
	host VARCHAR(40) NOT NULL, 
	started DOUBLE NOT NULL, 
	ended DOUBLE, 
	outcome TEXT, 
	CONSTRAINT pk_attempt PRIMARY KEY (job, fence), 
	CONSTRAINT fk_attempt_job FOREIGN KEY(job) REFERENCES job (id) ON DELETE CASCADE
);
CREATE TABLE cert (
	id VARCHAR(40) NOT NULL, 
	zone VARCHAR(40) NOT NULL, 
	alias VARCHAR(255) NOT NULL, 
	live_alias VARCHAR(255), 
	hypervisor VARCHAR(32) NOT NULL, 
	pem TEXT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	not_after DOUBLE NOT NULL, 
	revoked BOOLEAN DEFAULT 0 NOT NULL, 
	warned INTEGER DEFAULT '0' NOT NULL, 
	created DOUBLE NOT NULL, 
	removed DOUBLE, 
	CONSTRAINT pk_cert PRIMARY KEY (id), 
	CONSTRAINT fk_cert_zone FOREIGN KEY(zone) REFERENCES zone (id), 
	CONSTRAINT uq_cert_zone_live_alias UNIQUE (zone, live_alias)
);
CREATE TABLE cert_host (
	cert VARCHAR(40) NOT NULL, 
	host VARCHAR(40) NOT NULL, 
	want VARCHAR(8) NOT NULL, 
	want_rev BIGINT DEFAULT '1' NOT NULL, 
	done_rev BIGINT DEFAULT '0' NOT NULL, 
	status VARCHAR(10) NOT NULL, 
	detail TEXT DEFAULT '' NOT NULL, 
	failures INTEGER DEFAULT '0' NOT NULL, 
	retry_at DOUBLE DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_cert_host PRIMARY KEY (cert, host), 
	CONSTRAINT fk_cert_host_cert FOREIGN KEY(cert) REFERENCES cert (id) ON DELETE CASCADE, 
	CONSTRAINT fk_cert_host_host FOREIGN KEY(host) REFERENCES host (id) ON DELETE CASCADE
);
CREATE TABLE copy (
	pool VARCHAR(40) NOT NULL, 
	volume VARCHAR(128) NOT NULL, 
	template VARCHAR(40), 
	live VARCHAR(40), 
	zone VARCHAR(40) DEFAULT '' NOT NULL, 
	account VARCHAR(255) DEFAULT '' NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	complete BOOLEAN DEFAULT 0 NOT NULL, 
	fence BIGINT DEFAULT '0' NOT NULL, 
	install_path TEXT DEFAULT '' NOT NULL, 
	size BIGINT DEFAULT '0' NOT NULL, 
	bytes BIGINT DEFAULT '0' NOT NULL, 
	result TEXT DEFAULT '{}' NOT NULL, 
	users TEXT DEFAULT '[]' NOT NULL, 
	note TEXT DEFAULT '' NOT NULL, 
	forced BOOLEAN DEFAULT 0 NOT NULL, 
	failures INTEGER DEFAULT '0' NOT NULL, 
	retry_at DOUBLE DEFAULT '0' NOT NULL, 
	created DOUBLE NOT NULL, 
	updated DOUBLE NOT NULL, 
	CONSTRAINT pk_copy PRIMARY KEY (pool, volume), 
	CONSTRAINT fk_copy_pool FOREIGN KEY(pool) REFERENCES pool (id) ON DELETE CASCADE, 
	CONSTRAINT uq_copy_live_pool UNIQUE (live, pool)
);
CREATE TABLE event (
	id VARCHAR(40) NOT NULL, 
	type VARCHAR(64) NOT NULL, 
	level VARCHAR(8) NOT NULL, 
	state VARCHAR(16) DEFAULT 'Completed' NOT NULL, 
	description TEXT NOT NULL, 
	account VARCHAR(255) DEFAULT 'system' NOT NULL, 
	resource VARCHAR(40), 
	username VARCHAR(255), 
	address VARCHAR(64), 
	created DOUBLE NOT NULL, 
	CONSTRAINT pk_event PRIMARY KEY (id)
);
CREATE TABLE follow (
	id VARCHAR(40) NOT NULL, 
	product VARCHAR(2048) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	keep INTEGER NOT NULL, 
	seen VARCHAR(64) NOT NULL, 
	error TEXT, 
	due DOUBLE DEFAULT '0' NOT NULL, 
	created DOUBLE NOT NULL, 
	CONSTRAINT pk_follow PRIMARY KEY (id)
);
CREATE TABLE follow_version (
	template VARCHAR(40) NOT NULL, 
	follow VARCHAR(40) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	state VARCHAR(8) NOT NULL, 
	CONSTRAINT pk_follow_version PRIMARY KEY (template), 
	CONSTRAINT fk_follow_version_follow FOREIGN KEY(follow) REFERENCES follow (id) ON DELETE CASCADE, 
	CONSTRAINT fk_follow_version_template FOREIGN KEY(template) REFERENCES template (id) ON DELETE CASCADE
);
CREATE TABLE host (
	id VARCHAR(40) NOT NULL, 
	zone VARCHAR(40) NOT NULL, 
	cluster VARCHAR(255) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	address VARCHAR(255) DEFAULT '' NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	resource_state VARCHAR(24) DEFAULT 'Enabled' NOT NULL, 
	tags TEXT DEFAULT '[]' NOT NULL, 
	renamed BOOLEAN DEFAULT 0 NOT NULL, 
	version VARCHAR(255) DEFAULT '' NOT NULL, 
	arch VARCHAR(16) DEFAULT '' NOT NULL, 
	kinds TEXT DEFAULT '[]' NOT NULL, 
	max_downloads INTEGER DEFAULT '4' NOT NULL, 
	rev BIGINT DEFAULT '0' NOT NULL, 
	key_hash VARCHAR(64) NOT NULL, 
	ca_sha256 VARCHAR(64), 
	certified_until DOUBLE, 
	gateway VARCHAR(64) DEFAULT '' NOT NULL, 
	changed DOUBLE NOT NULL, 
	created DOUBLE NOT NULL, 
	clock_skew DOUBLE DEFAULT '0' NOT NULL, 
	keystore TEXT DEFAULT '{}' NOT NULL, 
	keystore_error TEXT, 
	keystore_revision BIGINT DEFAULT '0' NOT NULL, machine_pools TEXT DEFAULT '[]' NOT NULL, 
	CONSTRAINT pk_host PRIMARY KEY (id), 
	CONSTRAINT fk_host_zone FOREIGN KEY(zone) REFERENCES zone (id)
);
CREATE TABLE host_pool (
	host VARCHAR(40) NOT NULL, 
	pool VARCHAR(40) NOT NULL, 
	error TEXT, 
	accepted BOOLEAN NOT NULL, 
	CONSTRAINT pk_host_pool PRIMARY KEY (host, pool), 
	CONSTRAINT fk_host_pool_host FOREIGN KEY(host) REFERENCES host (id) ON DELETE CASCADE, 
	CONSTRAINT fk_host_pool_pool FOREIGN KEY(pool) REFERENCES pool (id) ON DELETE CASCADE
);
CREATE TABLE job (
	id VARCHAR(40) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	single VARCHAR(255), 
	zone VARCHAR(40) NOT NULL, 
	template VARCHAR(40), 
	pool VARCHAR(40), 
	volume VARCHAR(128), 
	host VARCHAR(40), 
	lane VARCHAR(255) DEFAULT '' NOT NULL, 
	slots TEXT DEFAULT '[]' NOT NULL, 
	rank INTEGER DEFAULT '10' NOT NULL, 
	waiting BOOLEAN NOT NULL, 
	not_before DOUBLE DEFAULT '0' NOT NULL, 
	fence BIGINT DEFAULT '0' NOT NULL, 
	attempt INTEGER DEFAULT '0' NOT NULL, 
	tried TEXT DEFAULT '[]' NOT NULL, 
	args TEXT NOT NULL, 
	context TEXT DEFAULT '{}' NOT NULL, 
	failure TEXT, 
	result TEXT, 
	percent INTEGER DEFAULT '0' NOT NULL, 
	created DOUBLE NOT NULL, 
	updated DOUBLE NOT NULL, 
	ended DOUBLE, 
	CONSTRAINT pk_job PRIMARY KEY (id), 
	CONSTRAINT uq_job_single UNIQUE (single)
);
CREATE TABLE lease (
	name VARCHAR(64) NOT NULL, 
	owner VARCHAR(64) NOT NULL, 
	fence BIGINT NOT NULL, 
	until DOUBLE NOT NULL, 
	CONSTRAINT pk_lease PRIMARY KEY (name)
);
CREATE TABLE manager (
	name VARCHAR(64) NOT NULL, 
	address VARCHAR(255) NOT NULL, 
	version VARCHAR(255) NOT NULL, 
	seen DOUBLE NOT NULL, 
	CONSTRAINT pk_manager PRIMARY KEY (name)
);
CREATE TABLE piece_list (
	template VARCHAR(40) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size BIGINT NOT NULL, 
	length BIGINT NOT NULL, 
	hashes TEXT NOT NULL, 
	host VARCHAR(40) NOT NULL, 
	refused TEXT DEFAULT '[]' NOT NULL, 
	created DOUBLE NOT NULL, 
	CONSTRAINT pk_piece_list PRIMARY KEY (template), 
	CONSTRAINT fk_piece_list_template FOREIGN KEY(template) REFERENCES template (id) ON DELETE CASCADE
);
CREATE TABLE pool (
	id VARCHAR(40) NOT NULL, 
	zone VARCHAR(40) NOT NULL, 
	cluster VARCHAR(255) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	type VARCHAR(32) NOT NULL, 
	shared BOOLEAN NOT NULL, 
	path TEXT DEFAULT '' NOT NULL, 
	capacity BIGINT DEFAULT '0' NOT NULL, 
	available BIGINT DEFAULT '0' NOT NULL, 
	owner VARCHAR(40), 
	proof VARCHAR(64), 
	open BOOLEAN DEFAULT 0 NOT NULL, 
	created DOUBLE NOT NULL, 
	CONSTRAINT pk_pool PRIMARY KEY (id), 
	CONSTRAINT fk_pool_zone FOREIGN KEY(zone) REFERENCES zone (id)
);
CREATE TABLE replay (
	digest VARCHAR(64) NOT NULL, 
	until DOUBLE NOT NULL, 
	CONSTRAINT pk_replay PRIMARY KEY (digest)
);
CREATE TABLE session (
	digest VARCHAR(64) NOT NULL, 
	user VARCHAR(40) NOT NULL, 
	key_digest VARCHAR(64) NOT NULL, 
	opened DOUBLE NOT NULL, 
	until DOUBLE NOT NULL, 
	CONSTRAINT pk_session PRIMARY KEY (digest)
);
CREATE TABLE setting (
	name VARCHAR(255) NOT NULL, 
	value VARCHAR(4096) NOT NULL, 
	CONSTRAINT pk_setting PRIMARY KEY (name)
);
CREATE TABLE slot (
	kind VARCHAR(8) NOT NULL, 
	"key" VARCHAR(255) NOT NULL, 
	active INTEGER DEFAULT '0' NOT NULL, 
	cap INTEGER, 
	CONSTRAINT pk_slot PRIMARY KEY (kind, "key"), 
	CONSTRAINT ck_slot_active CHECK (active >= 0)
);
CREATE TABLE template (
	id VARCHAR(40) NOT NULL, 
	owner VARCHAR(40) NOT NULL, 
	account VARCHAR(255) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	display_text TEXT NOT NULL, 
	url VARCHAR(2048) NOT NULL, 
	iso BOOLEAN NOT NULL, 
	format VARCHAR(16) NOT NULL, 
	hypervisor VARCHAR(32) NOT NULL, 
	os_type VARCHAR(40), 
	arch VARCHAR(16) DEFAULT 'x86_64' NOT NULL, 
	bootable BOOLEAN DEFAULT 1 NOT NULL, 
	checksum VARCHAR(300), 
	public BOOLEAN NOT NULL, 
	featured BOOLEAN NOT NULL, 
	details TEXT DEFAULT '{}' NOT NULL, 
	flags TEXT DEFAULT '{}' NOT NULL, 
	sources TEXT DEFAULT '[]' NOT NULL, 
	origins TEXT DEFAULT '[]' NOT NULL, 
	size BIGINT, 
	virtual_size BIGINT, 
	validators TEXT DEFAULT '{}' NOT NULL, 
	digests TEXT DEFAULT '{}' NOT NULL, 
	drift TEXT, 
	created DOUBLE NOT NULL, 
	removed DOUBLE, 
	CONSTRAINT pk_template PRIMARY KEY (id)
);
CREATE TABLE template_account (
	template VARCHAR(40) NOT NULL, 
	account VARCHAR(255) NOT NULL, 
	CONSTRAINT pk_template_account PRIMARY KEY (template, account), 
	CONSTRAINT fk_template_account_template FOREIGN KEY(template) REFERENCES template (id) ON DELETE CASCADE
);
CREATE TABLE template_zone (
	template VARCHAR(40) NOT NULL, 
	zone VARCHAR(40) NOT NULL, 
	created DOUBLE NOT NULL, 
	removed DOUBLE, 
	CONSTRAINT pk_template_zone PRIMARY KEY (template, zone), 
	CONSTRAINT fk_template_zone_template FOREIGN KEY(template) REFERENCES template (id), 
	CONSTRAINT fk_template_zone_zone FOREIGN KEY(zone) REFERENCES zone (id)
);
CREATE TABLE token (
	id VARCHAR(40) NOT NULL, 
	zone VARCHAR(40) NOT NULL, 
	cluster VARCHAR(255) NOT NULL, 
	secret_hash VARCHAR(64) NOT NULL, 
	created DOUBLE NOT NULL, 
	expires DOUBLE NOT NULL, 
	replaces VARCHAR(40), 
	key_hash VARCHAR(64), 
	host VARCHAR(40), 
	CONSTRAINT pk_token PRIMARY KEY (id), 
	CONSTRAINT fk_token_host FOREIGN KEY(host) REFERENCES host (id) ON DELETE CASCADE, 
	CONSTRAINT fk_token_replaces FOREIGN KEY(replaces) REFERENCES host (id) ON DELETE CASCADE, 
	CONSTRAINT fk_token_zone FOREIGN KEY(zone) REFERENCES zone (id)
);
CREATE TABLE vm (
	id VARCHAR(40) NOT NULL, 
	zone VARCHAR(40) NOT NULL, 
	owner VARCHAR(40) NOT NULL, 
	account VARCHAR(255) NOT NULL, 
	name VARCHAR(63) NOT NULL, 
	display_name VARCHAR(255) NOT NULL, 
	template VARCHAR(40) NOT NULL, 
	iso BOOLEAN NOT NULL, 
	host VARCHAR(40) NOT NULL, 
	pool VARCHAR(40) NOT NULL, 
	disk VARCHAR(128) NOT NULL, 
	disk_size BIGINT DEFAULT '0' NOT NULL, 
	processors INTEGER NOT NULL, 
	memory BIGINT NOT NULL, 
	controller VARCHAR(16) DEFAULT '' NOT NULL, 
	accelerated BOOLEAN DEFAULT 0 NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	goal VARCHAR(16) NOT NULL, 
	fence BIGINT DEFAULT '0' NOT NULL, 
	deployed BOOLEAN DEFAULT 0 NOT NULL, 
	fetches INTEGER DEFAULT '0' NOT NULL, 
	download VARCHAR(40), 
	host_job VARCHAR(40), 
	api_job VARCHAR(40), 
	note TEXT DEFAULT '' NOT NULL, 
	retry_at DOUBLE DEFAULT '0' NOT NULL, 
	created DOUBLE NOT NULL, 
	updated DOUBLE NOT NULL, 
	removed DOUBLE, 
	CONSTRAINT pk_vm PRIMARY KEY (id), 
	CONSTRAINT fk_vm_zone FOREIGN KEY(zone) REFERENCES zone (id)
);
CREATE TABLE zone (
	id VARCHAR(40) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	enabled BOOLEAN NOT NULL, 
	created DOUBLE NOT NULL, 
	network TEXT DEFAULT '{}' NOT NULL, 
	CONSTRAINT pk_zone PRIMARY KEY (id), 
	CONSTRAINT uq_zone_name UNIQUE (name)
);
CREATE INDEX ix_api_job_created ON api_job (created);
CREATE INDEX ix_event_created ON event (created);
CREATE INDEX ix_job_ended ON job (ended);
CREATE INDEX ix_job_held ON job (state) WHERE host IS NOT NULL;
CREATE INDEX ix_job_host ON job (host, state);
CREATE INDEX ix_job_place ON job (template, pool, created);
CREATE INDEX ix_job_queue ON job (waiting, lane, rank, created, id);
CREATE INDEX ix_replay_until ON replay (until);
CREATE INDEX ix_template_removed_created_id ON template (removed, created, id);
CREATE INDEX ix_api_job_part_job ON api_job_part (job);
CREATE INDEX ix_host_zone_name ON host (zone, name);
CREATE INDEX ix_pool_zone ON pool (zone);
CREATE INDEX ix_cert_host_host ON cert_host (host);
CREATE INDEX ix_copy_due ON copy (state, retry_at);
CREATE INDEX ix_copy_template ON copy (template);
CREATE INDEX ix_host_pool_pool ON host_pool (pool);
CREATE INDEX ix_follow_version_follow ON follow_version (follow);
CREATE INDEX ix_slot_in_use ON slot (kind, "key") WHERE active > 0 OR cap IS NOT NULL;
CREATE INDEX ix_vm_host ON vm (host, removed);
CREATE INDEX ix_vm_host_job ON vm (host_job);
CREATE INDEX ix_vm_zone ON vm (zone, removed);
CREATE INDEX ix_session_user ON session (user);
COMMIT;
