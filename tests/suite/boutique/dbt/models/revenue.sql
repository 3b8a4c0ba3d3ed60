select current_date as day, sum(p.amount) as total from {{ ref('stg_payments') }} p join {{ source('raw', 'orders') }} o using (id)
