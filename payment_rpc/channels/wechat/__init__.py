"""WeChat Pay, APIv3 for a direct merchant: native codes, h5 pages, jsapi, refunds, bills."""
