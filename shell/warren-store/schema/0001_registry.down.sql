DROP TABLE audit;
DROP TABLE soft;
DROP TABLE changes;
DROP TABLE policy;
DROP TABLE join_keys;
DROP TABLE nodes;
DROP TABLE users;
DROP TABLE server;
