#!/bin/bash
# Run once by the MySQL image, on an empty data folder. Per service a database, a user that runs the service, and a user that migrates it
# (`<service>_migrate`). No user reads another service's tables. The user of the service has no rights yet: `paymesh migrate --grant-to-services`
# gives them, table by table. Nothing is made unless every password is there.
set -eu
secrets=${INFRASTRUCTURE_DIR:-/infrastructure}
services="payment_rpc order_rpc seckill_rpc merchant_rpc"

password() {
    if [ ! -s "$secrets/$1" ]; then
        echo "create-databases: $secrets/$1 is missing or empty: no user is made" >&2
        return 1
    fi
    case $(cat "$secrets/$1") in
        *[!A-Za-z0-9._-]*) echo "create-databases: $secrets/$1: a password has letters, digits and . _ - only" >&2; return 1 ;;
        ????????????????*) cat "$secrets/$1" ;;
        *) echo "create-databases: $secrets/$1: a password has at least 16 characters" >&2; return 1 ;;
    esac
}

statements=
for service in $services; do
    own=$(password "$service")
    migrate=$(password "${service}_migrate")
    statements+="
CREATE DATABASE ${service} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE USER ${service}@'%' IDENTIFIED BY '${own}';
CREATE USER ${service}_migrate@'%' IDENTIFIED BY '${migrate}';
GRANT ALL ON ${service}.* TO ${service}_migrate@'%' WITH GRANT OPTION;"
done
# By the environment and by standard input: a command line shows passwords to everybody on the machine.
MYSQL_PWD=${MYSQL_ROOT_PASSWORD:-} mysql --user=root <<< "$statements"
