from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('jobs', '0002_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Lock',
            fields=[
                ('name', models.CharField(max_length=32, primary_key=True, serialize=False)),
                ('holder', models.CharField(blank=True, max_length=64)),
                ('lease_until', models.DateTimeField(null=True)),
            ],
        ),
        migrations.AddField(
            model_name='job',
            name='wake_requested',
            field=models.BooleanField(default=False),
        ),
    ]
