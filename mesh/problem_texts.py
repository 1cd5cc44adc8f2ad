"""What is wrong with one field of a request, in the language of whoever reads it.

Refusals carry these texts in English (`MeshError.fields`). Where they go out they are translated by
this table: `{0}` stands for a number, an amount or a name that the text has at that place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mesh.languages import Language

WRONG_FORM: Final = "is not in the right form"
NOT_POSSIBLE: Final = "is not one of the values that are possible here"
# Rules of buf.validate as texts for people; `{0}` and `{1}` are their numbers. The rule itself is
# in the OpenAPI document. A rule with its own text in the contract has no line here.
_RULES: Final[Mapping[str, str]] = {
    "required": "is required",
    "string.pattern": WRONG_FORM,
    "string.in": NOT_POSSIBLE,
    "string.min_len": "must have at least {0} characters",
    "string.max_len": "must be at most {0} characters",
    "repeated.min_items": "must have at least {0} items",
    "repeated.max_items": "must have at most {0} items",
    "map.max_pairs": "must have at most {0} entries",
    "enum.defined_only": NOT_POSSIBLE,
    "enum.in": NOT_POSSIBLE,
    "int.in": NOT_POSSIBLE,
    "int.not_in": NOT_POSSIBLE,
    "int.gte": "must be at least {0}",
    "int.gte_lte": "must be between {0} and {1}",
}

_INTEGER: Final = re.compile(r"^u?int(?:32|64)(?=\.)")

_TABLE: Final[Mapping[str, str]] = {
    # Rules of buf.validate.
    "is required": "必填",
    WRONG_FORM: "格式不正确",
    NOT_POSSIBLE: "不是可用的取值",
    "must have at least 1 character": "至少 1 个字符",
    "must have at least {0} characters": "至少 {0} 个字符",
    "must be at most {0} characters": "最多 {0} 个字符",
    "must be at most {0} bytes": "最多 {0} 字节",
    "must have at least 1 item": "至少 1 项",
    "must have at least {0} items": "至少 {0} 项",
    "must be at least {0}": "不能小于 {0}",
    "must not begin with auto:": "格式不正确",
    "payment_id or order_id is needed": "须填写支付单号或订单号",
    "items and amount do not go together": "商品与金额不能同时填写",
    # Texts entered by people.
    "must be one line without control characters": "须为不含控制字符的单行文本",
    "must not hold a card number": "不能包含银行卡号",
    "is more than is held": "不能超过已冻结金额",
    "is not offered yet": "暂不支持",
    "the channel cannot hold money": "该支付渠道不支持预授权",
    "the shop takes the money of buyers at once": "商家不接受买家自行选择预授权",
    "a wallet pays at once": "钱包支付不支持预授权",
    "an order of a flash sale is paid at once": "秒杀订单不支持预授权",
    "does not go with a card": "不能与银行卡同时填写",
    "does not go with a wallet": "不能与钱包支付同时填写",
    "is more than was captured": "不能超过已收金额",
    "the wallet would hold more than it can": "钱包余额将超过上限",
    "must have a letter, a digit or a sign": "须包含可见字符",
    # The form of a request.
    "differs from {0}": "与另一处的取值不一致",
    "compressed bodies are not taken": "不支持压缩内容",
    "expected 1 to 255 printable ASCII characters without spaces": "须为 1 到 255 "
    "个可打印字符，不含空格",
    "expected printable ASCII characters": "须为可打印字符",
    "has a fragment, which is never sent": "地址不能包含片段",
    "has more than {0} parameters": "参数超过 {0} 个",
    "has text that is not Unicode": "包含无效字符",
    "has the number -0": "数字无效",
    "is blank": "不能为空白",
    "is given twice": "重复出现",
    "is a member already": "已是成员",
    "is taken": "已被使用",
    "is the test sibling of {0}": "是 {0} 的测试商户",
    "has a character that names cannot have": "包含名称不能使用的字符",
    "has letters that look like others": "包含容易混淆的字母",
    "mixes letters of several scripts": "混用了多种文字",
    "must have a letter or a digit": "须包含字母或数字",
    "{0} is needed": "需要 {0}",
    "{0} may {1}": "{0} 拥有 {1}",
    "is given twice, as another spelling of {0}": "重复出现",
    "is neither a path nor an http address": "不是有效的地址",
    "is nested deeper than {0} levels": "嵌套超过 {0} 层",
    "is not a field of this message": "不是此请求的字段",
    "is not a host": "不是有效的主机名",
    "is not a query parameter of this path": "不是此地址的参数",
    "is a part of the path": "已包含在路径中",
    "is not a time of the calendar": "不是有效的时间",
    "is not part of HTTP/1.0": "协议版本不支持",
    "is not percent-encoded UTF-8": "编码无效",
    "is not taken here": "此处不接受内容",
    "is not valid JSON: {0}": "不是有效的 JSON",
    "is not valid UTF-8": "编码无效",
    "is one of {0}": "不是可用的取值",
    "is outside of the years 1 to 9999": "超出时间范围",
    "is longer than 10 000 years": "超出时长范围",
    "must be a duration in seconds, e.g. 1.5s": "须为以秒计的时长，例如 1.5s",
    "must be a list": "须为列表",
    "must be a string": "须为字符串",
    "must be a string or a number": "须为字符串或数字",
    "must be a value of {0}": "不是可用的取值",
    "must be an RFC 3339 time with an offset, e.g. 2026-01-31T12:00:00Z": "须为带时区的时间，例如 "
    "2026-01-31T12:00:00Z",
    "has a space where a time has its sign: write + as %2B": "时区前的加号须写成 %2B",
    "must be an integer": "须为整数",
    "must be an object": "须为对象",
    "must be application/json in UTF-8": "内容类型须为 JSON",
    "must be base64": "编码无效",
    "must be between {0} and {1}": "须在 {0} 到 {1} 之间",
    "must be given once": "须出现一次",
    "must be true or false": "须为布尔值",
    "must be written without an exponent": "不能使用指数形式",
    "must end in chunked, once": "传输编码无效",
    "must have at most {0} entries": "最多 {0} 项",
    "must have at most {0} items": "最多 {0} 项",
    "must not be null": "不能为空",
    "expected a time between the years 1 and 9999": "超出时间范围",
    # Money.
    'expected a decimal string in major units such as "99.99"': "须为金额，例如 99.99",
    "must be greater than zero": "须大于零",
    "must not be negative": "不能为负数",
    "{0} could be {1} or {2}: send {3} or {4}": "{0} 可能表示 {1} 或 {2}，请改传 {3} 或 {4}",
    "a bare integer could be major or minor units: send {0} or {1}": "整数的单位不明确，请改传 "
    "{0} 或 {1}",
    "{0} could be in major or in minor units: send {1} as text or {2}": "{0} "
    "的单位不明确，请将 {1} 写成文本，或改传 {2}",
    "more than {0} digits": "超过 {0} 位数字",
    "more than {0} bytes": "超过 {0} 字节",
    "{0} has {1} digits after the point": "{0} 的小数位数为 {1}",
    "unknown currency, expected an ISO 4217 code such as CNY": "币种未知，例如 CNY",
    "their total has more than {0} digits": "总金额超过 {0} 位数字",
    "only one of major and minor units may be given": "金额只能以一种单位填写",
    # Cards.
    "must be 13 to 19 digits": "须为 13 到 19 位数字",
    "fails the check digit": "卡号有误",
    "must be 3 or 4 digits": "须为 3 或 4 位数字",
    "is too far in the future": "年份过大",
    "must be 1 to 12": "须为 1 到 12",
    "the card has expired": "银行卡已过期",
    # Orders and products.
    "{0} are available": "可用数量为 {0}",
    "{0} are left": "剩余 {0}",
    "{0} is left": "剩余 {0}",
    "differs from the order with this client_request_id": "与先前的订单不一致",
    "expected {0} days at most, the first one first": "最多 {0} 天，且开始日期在前",
    "expected a day after 1970": "日期须在 1970 年之后",
    "expected a day such as 2026-11-20": "须为日期，例如 2026-11-20",
    "expected an IANA name such as Asia/Shanghai": "须为时区名称，例如 Asia/Shanghai",
    "is not in the order": "不在订单中",
    "is not on sale": "未上架",
    "is sold in {0}, the lines before in {1}": "币种为 {0}，与其他商品的 {1} 不一致",
    "no such product": "商品不存在",
    "{0} is sold out": "{0} 已售罄",
    "only 1 unit of {0} is left": "{0} 仅剩 1 件",
    "only {0} units of {1} are left": "{1} 仅剩 {0} 件",
    "the price is {0}": "当前价格为 {0}",
    # Merchants' own orders.
    "differs from the line before with this product": "与同一商品的前一行不一致",
    "differs from the order with this number": "与该订单号的现有订单不一致",
    "has the form of our own ids": "不能使用系统订单号的格式",
    "is not an e-mail address": "不是有效的邮箱地址",
    "must be in the future, at most 7 days away": "须晚于当前时间，且不超过 7 天",
    "only a merchant may send it": "仅商户可填写此字段",
    "is said when the order is made": "须在创建订单时填写",
    "only a buyer may send it": "仅买家可填写此字段",
    "the lines, shipping and discount make {0}": "商品、运费与优惠合计为 {0}",
    # Payments and refunds.
    "at most {0} can be refunded": "最多可退 {0}",
    "is not the caller's": "不属于当前用户",
    "not on the merchant's allow-list": "不在允许范围内",
    "the shop does not use it": "商户未启用",
    "the order costs {0}": "订单金额为 {0}",
    "the order is in {0}": "订单币种为 {0}",
    "the payment is in {0}": "支付币种为 {0}",
    "unknown": "未知",
    "must have {0} bytes": "须为 {0} 字节",
    "the channel has no test mode": "该渠道没有测试模式",
    "expected an RSA private key of {0} bits or more": "须为不少于 {0} 位的私钥",
    "expected an RSA public key of {0} bits or more": "须为不少于 {0} 位的公钥",
    "only order_rpc sends it": "此字段不可使用",
    "a payment can only ask for PAID": "不是可用的取值",
    "expected the name of a state such as SUCCESS": "不是可用的取值",
    # API keys.
    "only a restricted key names its scopes": "仅受限密钥可指定权限",
    "is for people alone": "仅限成员使用",
    "expected an address or a network such as 203.0.113.0/24": "须为地址或网段，例如 "
    "203.0.113.0/24",
    "holds every address there is; leave the list empty": "包含所有地址，请留空",
    "must be in the future": "须晚于当前时间",
    # Channel accounts.
    "a LIVE account needs one of at least {0} characters": "正式账户须填写至少 {0} 个字符的原因",
    "cannot be read": "无法读取",
    "expected a JSON object": "须为 JSON 对象",
    "has {0} accounts, the most": "账户数量已达上限 {0}",
    "is of the other mode": "与商户的模式不一致",
    "is of the other mode; accounts of this merchant are {0}": "模式不一致，该商户的账户为 {0}",
    "is {0} and takes no new payments": "状态为 {0}，不接受新的支付",
    "needs {0} seconds": "需要 {0} 秒",
    "the channel gives back {0}, and no part of it": "该渠道只能全额退款 {0}",
    "the channel does not take {0}": "该渠道不支持 {0}",
    "the channel takes held money only once": "该渠道只能对已冻结金额扣款一次",
    "the channel takes multiples of {0} only": "该渠道的金额须为 {0} 的倍数",
    "the channel takes no less than {0}": "该渠道的金额不能小于 {0}",
    "the channel takes no more than {0}": "该渠道的金额不能大于 {0}",
    "this installation does not call this server": "系统未启用该服务器",
    "unknown; there are: {0}": "未知，可用：{0}",
    "{0} does not take what the buyer would pay with": "{0} 不支持该支付方式",
    # Statements.
    "{0} does not fit {1}; possible: {2}": "该处理方式不适用",
    "about neither a payment nor a refund": "内容无效",
    "expected a day as YYYY-MM-DD": "须为日期，例如 2026-11-20",
    "expected a day as YYYY-MM-DD, {0} or later": "日期须为 {0} 年或之后",
    "has no statements": "该渠道没有账单",
    "is in the future": "不能晚于当前日期",
    "needed to execute": "执行时必填",
    "not a callback of this channel": "不是该渠道的通知",
    "not one of {0}": "不是可用的取值",
    "the channel's day is not over and complete before {0}": "渠道的账务日尚未结束，或账单尚未出齐",
    # Flash sales.
    "{0} is sold in {1}": "{0} 的币种为 {1}",
    "is 1 in a draw": "抽签活动限购一件",
    "must be after starts_at": "须晚于开始时间",
    "must not be over": "不能早于当前时间",
}
UNKNOWN_PROBLEM: Final = "取值无效"  # texts that the table does not have


def _compile(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{\d\}", template)
    return re.compile("(.{1,200}?)".join(re.escape(part) for part in parts))


_EXACT: Final = {english: chinese for english, chinese in _TABLE.items() if "{0}" not in english}
# Most specific patterns first: otherwise "{0} are left" would match "only {0} units of {1} are
# left".
_PATTERNS: Final = [
    (_compile(english), chinese)
    for english, chinese in sorted(_TABLE.items(), key=lambda line: -len(line[0]))
    if "{0}" in english
]


def rule_text(rule_id: str, message: str) -> str:
    """A broken rule of buf.validate in plain English: the words that the contract gave it, else
    those for its kind.
    """
    template = _RULES.get(_INTEGER.sub("int", rule_id))  # whatever its size
    if template is None:
        return message or rule_id
    numbers = re.findall(r"-?\d+", message) if "{0}" in template else []
    text = template.format(*numbers) if len(numbers) >= template.count("{") else WRONG_FORM
    return (
        text.removesuffix("s")
        if numbers[:1] == ["1"] and text.endswith(("characters", "items"))
        else text
    )


def problem_text(problem: str, language: Language | None) -> str:
    """A problem of a field in the language of the caller, who gets English when he does not say."""
    if language is not Language.ZH:
        return problem
    known = _EXACT.get(problem)
    if known is not None:
        return known
    for pattern, chinese in _PATTERNS:
        found = pattern.fullmatch(problem)
        if found is not None:
            return chinese.format(*found.groups())
    return UNKNOWN_PROBLEM
