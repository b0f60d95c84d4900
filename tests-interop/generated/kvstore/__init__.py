__all__ = ['ttypes', 'constants', 'TransactionalKV']
