"""The catalogue on real databases: a product is created once, its stock is set by its own shop."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.call import Caller, calling
from mesh.errors import IdempotencyKeyReused, PageTokenInvalid
from mesh.idempotency import RECEIPT
from mesh.money import RequestedAmount
from mesh.paging import PageTokens
from order_rpc.domain.errors import ProductAlreadyExists, ProductNotFound
from order_rpc.domain.product import Product
from order_rpc.tables import PRODUCT, STOCK
from order_rpc.usecases.catalog import ListProducts, UpdateProduct
from tests.builders.order import ADMIN, OrderApp, merchant


def page(merchant_id: str = "mall", *, page_size: int = 0, page_token: str = "") -> ListProducts:
    return ListProducts(merchant_id=merchant_id, page_size=page_size, page_token=page_token)


async def test_a_product_comes_with_its_first_stock(app: OrderApp) -> None:
    product = await app.product(price="9.9", available=7, name="茶杯 ☕")
    assert (product.price.format(), product.stock.available, product.name) == ("9.90", 7, "茶杯 ☕")
    assert await app.catalog.get_product(merchant_id="mall", sku_id="mug") == product
    assert await app.stock() == (7, 0, 0)


async def test_the_same_content_again_answers_the_product_as_it_is_now(app: OrderApp) -> None:
    await app.product(available=7)
    await app.order(("mug", 2))
    app.clock.advance(60)
    again = await app.product(available=7)
    assert (again.stock.available, again.stock.reserved) == (5, 2)
    assert len(await app.rows(PRODUCT)) == 1


async def test_other_content_is_refused_by_field_and_changes_nothing(app: OrderApp) -> None:
    first = await app.product(price="10.00", available=7)
    with pytest.raises(ProductAlreadyExists) as refusal:
        await app.product(price="11.00", available=8)
    assert list(refusal.value.fields) == ["available", "price"]
    assert await app.catalog.get_product(merchant_id="mall", sku_id="mug") == first


async def test_fifty_creations_at_once_make_one_product(app: OrderApp) -> None:
    answers = await app.at_once(*(app.product() for _ in range(50)))
    assert all(answer == answers[0] for answer in answers)
    assert len(await app.rows(STOCK)) == 1


async def test_fifty_creations_with_one_key_make_one_product_and_equal_answers(
    app: OrderApp,
) -> None:
    answers = await app.at_once(*(app.product(key="k") for _ in range(50)))
    assert all(answer == answers[0] for answer in answers)
    assert len(await app.rows(RECEIPT)) == 1


@pytest.mark.parametrize("dialect", ["mariadb"])  # on SQLite one transaction runs at a time
async def test_a_creation_that_another_with_its_key_overtakes_gets_its_answer_though_the_product_changed(
    app: OrderApp,
) -> None:
    made: list[Product] = []

    async def create_and_change() -> None:
        made.append(await app.product(key="k"))
        await app.catalog.update_product(
            UpdateProduct(merchant_id="mall", sku_id="mug", price=RequestedAmount("12.00")),
            merchant(),
        )

    with app.overtaken(create_and_change, before="FROM product"):
        assert [await app.product(key="k")] == made


async def test_a_replay_with_a_key_answers_the_product_as_it_was_then_and_says_so(
    app: OrderApp,
) -> None:
    first = await app.product(key="k", name="茶杯")
    app.clock.advance(60)
    await app.catalog_stock.set_stock(
        merchant_id="mall", sku_id="mug", available=1, caller=merchant()
    )
    with calling(timeout_seconds=1) as call:
        assert await app.product(key="k", name="茶杯") == first
    assert list(call.trailing) == [("x-paymesh-idempotent-replayed", "true")]


async def test_a_key_with_another_request_is_refused_by_field(app: OrderApp) -> None:
    await app.product(key="k")
    with pytest.raises(IdempotencyKeyReused) as refusal:
        await app.product("cup", "11.00", key="k")
    assert list(refusal.value.fields) == ["price", "sku_id"]
    assert [row["sku_id"] for row in await app.rows(PRODUCT)] == ["mug"]


async def test_a_key_belongs_to_its_caller(app: OrderApp) -> None:
    await app.product(key="k")
    await app.product("cup", key="k", caller=ADMIN)
    assert len(await app.rows(PRODUCT)) == 2


async def test_two_shops_may_use_one_sku(app: OrderApp) -> None:
    await app.product(price="10.00")
    await app.product(price="20.00", merchant_id="tea_house")
    assert (
        await app.catalog.get_product(merchant_id="tea_house", sku_id="mug")
    ).price.format() == "20.00"
    products, _ = await app.catalog.list_products(page("tea_house"))
    assert [each.merchant_id for each in products] == ["tea_house"]


async def test_skus_that_differ_in_case_are_two_products(app: OrderApp) -> None:
    await app.product("MUG", available=1)
    await app.product("mug", available=2)
    assert (await app.stock("MUG"), await app.stock("mug")) == ((1, 0, 0), (2, 0, 0))


async def test_products_are_listed_by_sku_in_pages(app: OrderApp) -> None:
    for sku_id in ("c", "B", "a", "d"):
        await app.product(sku_id)
    first, token = await app.catalog.list_products(page(page_size=3))
    assert [each.sku_id for each in first] == ["B", "a", "c"]
    second, end = await app.catalog.list_products(page(page_size=3, page_token=token))
    assert ([each.sku_id for each in second], end) == (["d"], "")
    everything, end = await app.catalog.list_products(page(page_size=4))
    assert (len(everything), end) == (4, "")


async def test_a_page_token_of_another_shop_or_a_forged_one_is_refused(app: OrderApp) -> None:
    for sku_id in ("a", "b"):
        await app.product(sku_id)
    _, token = await app.catalog.list_products(page(page_size=1))
    for query in (
        page("tea_house", page_token=token),
        page(page_token=token[:-2] + "AA"),
        page(page_token="x"),
        page(
            page_token=PageTokens(b"another secret of thirty-two bytes").encode(
                list_name="ListProducts", filter={"merchant_id": "mall"}, key=["a"]
            )
        ),
    ):
        with pytest.raises(PageTokenInvalid):
            await app.catalog.list_products(query)


async def test_setting_the_stock_leaves_reserved_and_sold_units(app: OrderApp) -> None:
    created = await app.product(available=10)
    await app.order(("mug", 4))
    app.clock.advance(60)
    product = await app.catalog_stock.set_stock(
        merchant_id="mall", sku_id="mug", available=100, caller=merchant()
    )
    assert (product.stock.available, product.stock.reserved, product.stock.sold) == (100, 4, 0)
    assert product.updated_at == app.clock.now() != created.updated_at == product.created_at
    # the same values are no failure
    again = await app.catalog_stock.set_stock(
        merchant_id="mall", sku_id="mug", available=100, caller=merchant()
    )
    assert again == replace(product, updated_at=again.updated_at)


@pytest.mark.parametrize(
    ("caller", "sku_id"), [(merchant("tea_house"), "mug"), (merchant(), "cup"), (ADMIN, "cup")]
)
async def test_stock_of_another_shop_or_of_nothing_is_not_found(
    app: OrderApp, caller: Caller, sku_id: str
) -> None:
    await app.product(available=10)
    with pytest.raises(ProductNotFound):
        await app.catalog_stock.set_stock(
            merchant_id="mall", sku_id=sku_id, available=0, caller=caller
        )
    assert await app.stock() == (10, 0, 0)


async def test_an_admin_sets_the_stock_of_any_shop(app: OrderApp) -> None:
    await app.product(merchant_id="tea_house")
    await app.catalog_stock.set_stock(
        merchant_id="tea_house", sku_id="mug", available=3, caller=ADMIN
    )
    assert await app.stock(merchant_id="tea_house") == (3, 0, 0)


async def test_a_product_that_is_not_there_is_not_found(app: OrderApp) -> None:
    with pytest.raises(ProductNotFound):
        await app.catalog.get_product(merchant_id="mall", sku_id="mug")
