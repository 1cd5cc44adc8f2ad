# Run once by the MySQL image, on an empty data folder: a database and a user per service. No service can read another's tables.
for service in payment_rpc order_rpc seckill_rpc; do
    mysql --user=root --password="$MYSQL_ROOT_PASSWORD" <<SQL
CREATE DATABASE ${service} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE USER ${service}@'%' IDENTIFIED BY '$(cat "${INFRASTRUCTURE_DIR:-/infrastructure}/${service}")';
GRANT ALL ON ${service}.* TO ${service}@'%';
SQL
done
